//! What a person should hear while it happens: losses, and what became of them.

use std::io::{self, Write};
use std::pin::pin;

use tokio::sync::mpsc;

/// More than this that nobody has heard yet is not told.
const UNHEARD: usize = 100;

/// Tells what happens to whoever listens in [`saying`]. Never waits: who follows a stream must not
/// be held up by a terminal that nobody reads. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct News(Option<mpsc::Sender<String>>);

impl News {
    /// Tells a sentence.
    pub(crate) fn tell(&self, text: String) {
        if let Some(teller) = &self.0 {
            let _ = teller.try_send(text);
        }
    }
}

/// Does something, and says meanwhile on standard error what it tells.
pub async fn saying<F: Future>(work: impl FnOnce(News) -> F) -> F::Output {
    let (teller, mut told) = mpsc::channel(UNHEARD);
    let mut work = pin!(work(News(Some(teller))));
    loop {
        tokio::select! {
            // What was told before the end is said before it.
            biased;
            Some(text) = told.recv() => {
                let _ = writeln!(io::stderr(), "{text}");
            }
            ended = &mut work => return ended,
        }
    }
}
