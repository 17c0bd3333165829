//! Transactions received before they are committed: kept as they came, in memory up to a bound and
//! in files beyond it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::fault::{Fault, is_planted};

/// Read from a file at once.
const READ_BYTES: usize = 256 * 1024;

/// Position, subtransaction and length in front of each message.
const HEADER_BYTES: usize = 16;

/// Transactions by their id.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    memory_limit_bytes: u64,
    memory_bytes: u64,
    transactions: HashMap<u32, Spooled>,
}

/// `TMPDIR`, else `/var/tmp`: `/tmp` is memory on many systems, and this is for what does not fit.
fn temporary_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// Messages of one transaction.
#[derive(Debug, Default)]
struct Spooled {
    /// What came first and did not fit into memory. Has no name, so that it goes with its process
    /// however that ends.
    file: Option<File>,
    memory: Vec<u8>,
    aborted: HashSet<u32>,
}

impl Spool {
    /// A spool that keeps files in `folder` once its messages take more memory than the limit.
    pub(crate) fn new(folder: Option<&Path>, memory_limit_bytes: u64) -> Self {
        let folder = folder.map_or_else(temporary_folder, Path::to_path_buf);
        Self { folder, memory_limit_bytes, memory_bytes: 0, transactions: HashMap::new() }
    }

    /// Keeps the messages of a transaction, of which there may be none.
    pub(crate) fn open(&mut self, xid: u32) {
        self.transactions.entry(xid).or_default();
    }

    /// Adds a message of `subxid`, a part of transaction `xid`, given as its tag and what follows.
    ///
    /// # Errors
    /// A file can't be written.
    pub(crate) fn add(
        &mut self,
        (xid, subxid): (u32, u32),
        lsn: u64,
        tag: u8,
        rest: &[u8],
    ) -> io::Result<()> {
        let memory = &mut self.transactions.entry(xid).or_default().memory;
        memory.extend_from_slice(&lsn.to_le_bytes());
        memory.extend_from_slice(&subxid.to_le_bytes());
        let length = u32::try_from(rest.len() + 1).map_err(io::Error::other)?;
        memory.extend_from_slice(&length.to_le_bytes());
        memory.push(tag);
        memory.extend_from_slice(rest);
        self.memory_bytes += (HEADER_BYTES + 1 + rest.len()) as u64;
        if self.memory_bytes > self.memory_limit_bytes { self.spill() } else { Ok(()) }
    }

    /// Moves the transaction that takes most memory into its file.
    #[cold]
    fn spill(&mut self) -> io::Result<()> {
        let largest = self.transactions.values_mut().max_by_key(|spooled| spooled.memory.len());
        let Some(spooled) = largest else { return Ok(()) };
        if spooled.file.is_none() {
            spooled.file = Some(tempfile::tempfile_in(&self.folder)?);
        }
        if let Some(file) = &mut spooled.file {
            file.write_all(&spooled.memory)?;
        }
        self.memory_bytes -= spooled.memory.len() as u64;
        spooled.memory = Vec::new();
        Ok(())
    }

    /// A part of the transaction was rolled back, or all of it.
    pub(crate) fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            self.forget(xid);
        } else if let Some(spooled) = self.transactions.get_mut(&xid) {
            spooled.aborted.insert(subxid);
        }
    }

    /// Whether it was opened and has not ended.
    pub(crate) fn holds(&self, xid: u32) -> bool {
        self.transactions.contains_key(&xid)
    }

    /// Transactions that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Drops a transaction.
    pub(crate) fn forget(&mut self, xid: u32) {
        if let Some(spooled) = self.transactions.remove(&xid) {
            self.memory_bytes -= spooled.memory.len() as u64;
        }
    }

    /// Drops all of them: PostgreSQL sends again what was not confirmed.
    pub(crate) fn clear(&mut self) {
        self.transactions.clear();
        self.memory_bytes = 0;
    }

    /// Takes a transaction out, to be read from its beginning.
    ///
    /// # Errors
    /// Its file can't be read.
    pub(crate) fn take(&mut self, xid: u32) -> io::Result<Spooling> {
        let spooled = self.transactions.remove(&xid).unwrap_or_default();
        self.memory_bytes -= spooled.memory.len() as u64;
        let Spooled { file, memory, aborted, .. } = spooled;
        let from: Box<dyn Read + Send> = match file {
            None => Box::new(Cursor::new(memory)),
            Some(mut file) => {
                file.rewind()?;
                let file = BufReader::with_capacity(READ_BYTES, file);
                Box::new(file.chain(Cursor::new(memory)))
            }
        };
        Ok(Spooling { from, aborted, body: Vec::new(), read_bytes: 0 })
    }
}

/// A spooled transaction that is being read.
pub(crate) struct Spooling {
    from: Box<dyn Read + Send>,
    aborted: HashSet<u32>,
    body: Vec<u8>,
    read_bytes: u64,
}

/// What comes next of a spooled transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A message, with its position.
    Message(u64, &'a [u8]),
    /// A message of a part that was rolled back.
    RolledBack,
    /// Nothing.
    End,
}

impl Spooling {
    /// The next message.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn next(&mut self) -> io::Result<Next<'_>> {
        let mut header = [0; HEADER_BYTES];
        if let Err(error) = self.from.read_exact(&mut header) {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            return if is_end { Ok(Next::End) } else { Err(error) };
        }
        let [l0, l1, l2, l3, l4, l5, l6, l7, s0, s1, s2, s3, n0, n1, n2, n3] = header;
        let lsn = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let length = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        self.body.resize(length, 0);
        self.from.read_exact(&mut self.body)?;
        self.read_bytes += (HEADER_BYTES + length) as u64;
        let is_aborted = self.aborted.contains(&u32::from_le_bytes([s0, s1, s2, s3]));
        if is_aborted && !is_planted(Fault::KeepAborted) {
            return Ok(Next::RolledBack);
        }
        Ok(Next::Message(lsn, &self.body))
    }

    /// Bytes that were read of it so far, rolled back or not.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }
}

impl std::fmt::Debug for Spooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spooling").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(spool: &mut Spool, xid: u32) -> Vec<(u64, Vec<u8>)> {
        let mut spooling = spool.take(xid).unwrap();
        let mut read = Vec::new();
        loop {
            match spooling.next().unwrap() {
                Next::Message(lsn, body) => read.push((lsn, body.to_vec())),
                Next::RolledBack => {}
                Next::End => return read,
            }
        }
    }

    proptest! {
        /// Whatever is interleaved and wherever memory ends, each transaction is read back in order
        /// and without what was rolled back.
        #[test]
        fn transactions_are_read_as_they_came(
            messages in prop::collection::vec(
                (1u32..4, 0u32..3, prop::collection::vec(any::<u8>(), 0..300)), 0..60),
            aborted in prop::collection::hash_set((1u32..4, 1u32..3), 0..3),
            memory_limit_bytes in 0u64..4_000,
        ) {
            let mut spool = Spool::new(None, memory_limit_bytes);
            for (lsn, (xid, subxid, body)) in messages.iter().enumerate() {
                spool.add((*xid, *xid * 10 + subxid), lsn as u64, b'I', body).unwrap();
                prop_assert!(spool.memory_bytes <= memory_limit_bytes.max(400));
            }
            aborted.iter().for_each(|(xid, subxid)| spool.abort(*xid, xid * 10 + subxid));
            for xid in 1..4 {
                let expected: Vec<_> = messages.iter().enumerate()
                    .filter(|(_, (of, subxid, _))| *of == xid && !aborted.contains(&(xid, *subxid)))
                    .map(|(lsn, (_, _, body))| (lsn as u64, [b"I", body.as_slice()].concat()))
                    .collect();
                prop_assert_eq!(read(&mut spool, xid), expected);
            }
            prop_assert_eq!(spool.memory_bytes, 0);
        }
    }

    #[test]
    fn a_transaction_that_is_rolled_back_is_forgotten() {
        let mut spool = Spool::new(None, 100);
        spool.add((1, 1), 5, b'I', &[0; 300]).unwrap();
        spool.add((2, 2), 6, b'I', &[1]).unwrap();
        spool.abort(1, 1);
        assert!(!spool.holds(1) && spool.holds(2));
        assert_eq!(read(&mut spool, 2), [(6, vec![b'I', 1])]);
    }
}
