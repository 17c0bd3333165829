//! placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ConfirmEarly,
    DropRetry,
    ReorderFlushes,
}
