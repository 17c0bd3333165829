//! Who runs beside whom. Tests run in parallel threads on few cores; one that holds a rate would
//! measure the others.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::new(());

/// For a test whose figures must be true: no other run goes on meanwhile.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that runs a pipeline and asks only what happens, not how fast.
pub(crate) fn together() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}
