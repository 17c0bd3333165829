//! `libchdb.so`, loaded: ClickHouse's engine behind a C interface, made safe.
//!
//! The only unsafe code of walbench. What makes it safe: every handle is owned by exactly one value
//! here and freed when that is dropped; what borrows from a handle can't outlive it; a connection is
//! used through `&mut`, because it runs one statement at a time; and the library is never unloaded.
#![allow(unsafe_code, reason = "a C library can't be called otherwise")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;

use libloading::os::unix;
use walbench_metrics::Failure;

/// A result, an insert's stream or a connection: none of them is looked into.
type Handle = *mut c_void;
type Text = *const c_char;

/// Runs or starts a statement: connection, statement, format, names and values of parameters.
type Run = unsafe extern "C" fn(
    Handle,
    Text,
    usize,
    Text,
    usize,
    *const Text,
    *const usize,
    *const Text,
    *const usize,
    usize,
) -> Handle;
type Number = unsafe extern "C" fn(Handle) -> u64;
type Free = unsafe extern "C" fn(Handle);
type Error = unsafe extern "C" fn(Handle) -> Text;

/// The library's functions, as its header declares them.
#[derive(Debug)]
pub(super) struct Library {
    connect: unsafe extern "C" fn(c_int, *mut Text) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: Run,
    stream: Run,
    fetch: unsafe extern "C" fn(Handle, Handle) -> Handle,
    cancel: unsafe extern "C" fn(Handle, Handle),
    free_result: Free,
    buffer: unsafe extern "C" fn(Handle) -> *const u8,
    length: unsafe extern "C" fn(Handle) -> usize,
    error: Error,
    read_rows: Number,
    read_bytes: Number,
    written_rows: Number,
    written_bytes: Number,
    insert: Run,
    append: unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int,
    done: unsafe extern "C" fn(Handle) -> Handle,
    insert_error: Error,
    free_insert: Free,
}

impl Library {
    /// Loads the library, for as long as the process lives.
    pub(super) fn load(path: &Path) -> Result<&'static Self, Failure> {
        let failed = |e: &libloading::Error| {
            Failure::new(format!("{} can't be loaded", path.display()))
                .caused_by(e)
                .hint("`walbench setup` gets the one that fits")
        };
        // SAFETY: the library's initialisers set up its own state; nothing of ours is there yet.
        let opened = unsafe { unix::Library::open(Some(path), unix::RTLD_NOW) };
        let opened = opened.map_err(|e| failed(&e))?;
        // SAFETY: this type is the one the header declares. It is called before the first
        // connection, as the header wants: otherwise the library would take our signals.
        unsafe {
            let set: unix::Symbol<unsafe extern "C" fn(c_int)> =
                opened.get(b"chdb_set_signal_handlers_enabled").map_err(|e| failed(&e))?;
            set(0);
        }
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field it goes into has the type the header declares.
                *unsafe { opened.get($name.as_bytes()) }.map_err(|e| failed(&e))?
            };
        }
        let library = Self {
            connect: function!("chdb_connect"),
            close: function!("chdb_close_conn"),
            query: function!("chdb_query_with_params_n"),
            stream: function!("chdb_stream_query_with_params_n"),
            fetch: function!("chdb_stream_fetch_result"),
            cancel: function!("chdb_stream_cancel_query"),
            free_result: function!("chdb_destroy_query_result"),
            buffer: function!("chdb_result_buffer"),
            length: function!("chdb_result_length"),
            error: function!("chdb_result_error"),
            read_rows: function!("chdb_result_storage_rows_read"),
            read_bytes: function!("chdb_result_storage_bytes_read"),
            written_rows: function!("chdb_result_rows_written"),
            written_bytes: function!("chdb_result_bytes_written"),
            insert: function!("chdb_stream_insert_with_params_n"),
            append: function!("chdb_stream_append"),
            done: function!("chdb_stream_done"),
            insert_error: function!("chdb_stream_insert_error"),
            free_insert: function!("chdb_destroy_insert_stream"),
        };
        // Its functions are used until the process ends.
        std::mem::forget(opened);
        Ok(Box::leak(Box::new(library)))
    }

    /// Connects to the engine of this process, which the first connection starts on its folder.
    pub(super) fn connect(&'static self, folder: &Path) -> Option<Connection> {
        let arguments = ["clickhouse".to_owned(), format!("--path={}", folder.display())];
        let arguments: Vec<CString> =
            arguments.into_iter().map(CString::new).collect::<Result<_, _>>().ok()?;
        let mut pointers: Vec<Text> = arguments.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `pointers` holds `count` strings that end with NUL and outlive the call.
        let handle = unsafe { (self.connect)(count, pointers.as_mut_ptr()) };
        Some(Connection { library: self, handle: NonNull::new(handle)? })
    }

    /// A result that is owned from now on.
    fn own(&'static self, handle: Handle) -> Result<Outcome, String> {
        let Some(handle) = NonNull::new(handle) else {
            return Err("the engine gave no result".into());
        };
        let outcome = Outcome { library: self, handle };
        // SAFETY: the handle is valid until `outcome` is dropped.
        match unsafe { text((self.error)(outcome.handle.as_ptr())) } {
            Some(error) => Err(error),
            None => Ok(outcome),
        }
    }
}

/// A string of the library's, copied.
///
/// # Safety
/// `pointer` is NULL or a string that ends with NUL.
unsafe fn text(pointer: Text) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// A statement as the library takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) sql: &'a [u8],
    pub(super) format: &'a str,
    pub(super) parameters: &'a [(String, String)],
}

impl Asked<'_> {
    fn run(self, run: Run, connection: Handle) -> Handle {
        let pointers = |part: fn(&(String, String)) -> &String| -> (Vec<Text>, Vec<usize>) {
            let parts = self.parameters.iter().map(part);
            parts.map(|text| (text.as_ptr().cast::<c_char>(), text.len())).unzip()
        };
        let (names, name_lengths) = pointers(|(name, _)| name);
        let (values, value_lengths) = pointers(|(_, value)| value);
        // SAFETY: each pointer goes with its length; all of it outlives the call, and the library
        // keeps none of it: parameters are bound during the call.
        unsafe {
            run(
                connection,
                self.sql.as_ptr().cast(),
                self.sql.len(),
                self.format.as_ptr().cast(),
                self.format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                names.len(),
            )
        }
    }
}

/// A connection: settings and a current database of its own. One statement at a time.
#[derive(Debug)]
pub(super) struct Connection {
    library: &'static Library,
    handle: NonNull<Handle>,
}

// SAFETY: the library takes calls from any thread, as long as those on one connection come one after
// the other, which `&mut self` sees to.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs a statement to its end.
    pub(super) fn query(&mut self, asked: Asked<'_>) -> Result<Outcome, String> {
        self.library.own(asked.run(self.library.query, self.raw()))
    }

    /// Starts a statement whose result comes in parts. Not every statement can be: the error says
    /// so.
    pub(super) fn stream(&mut self, asked: Asked<'_>) -> Result<Stream<'_>, String> {
        let started = self.library.own(asked.run(self.library.stream, self.raw()))?;
        Ok(Stream { connection: self, started })
    }

    /// Starts an INSERT whose data come in parts.
    pub(super) fn insert(&mut self, asked: Asked<'_>) -> Result<Insert<'_>, String> {
        let handle = asked.run(self.library.insert, self.raw());
        let Some(handle) = NonNull::new(handle) else {
            return Err("the engine gave no stream".into());
        };
        let insert = Insert { connection: self, handle };
        insert.error().map_or(Ok(insert), Err)
    }

    fn raw(&self) -> Handle {
        // SAFETY: the handle points at the connection until it is closed, which is at our drop.
        unsafe { *self.handle.as_ptr() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nothing that borrows from it is left.
        unsafe { (self.library.close)(self.handle.as_ptr()) }
    }
}

/// What a statement brought.
#[derive(Debug)]
pub(super) struct Outcome {
    library: &'static Library,
    handle: NonNull<c_void>,
}

// SAFETY: a result belongs to no connection and no thread; it is only read.
unsafe impl Send for Outcome {}

impl Outcome {
    pub(super) fn read_rows(&self) -> u64 {
        self.number(self.library.read_rows)
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.number(self.library.read_bytes)
    }

    pub(super) fn written_rows(&self) -> u64 {
        self.number(self.library.written_rows)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.number(self.library.written_bytes)
    }

    fn number(&self, number: Number) -> u64 {
        // SAFETY: the handle is valid until we are dropped.
        unsafe { number(self.handle.as_ptr()) }
    }
}

impl AsRef<[u8]> for Outcome {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: buffer and length belong together; the buffer lives and stays as it is until the
        // handle is freed, which is at our drop.
        unsafe {
            let length = (self.library.length)(self.handle.as_ptr());
            let buffer = (self.library.buffer)(self.handle.as_ptr());
            if buffer.is_null() || length == 0 {
                return &[];
            }
            std::slice::from_raw_parts(buffer, length)
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nothing that borrows from it is left.
        unsafe { (self.library.free_result)(self.handle.as_ptr()) }
    }
}

/// A result that comes in parts. What was not fetched when it is dropped is given up.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    connection: &'a mut Connection,
    started: Outcome,
}

impl Stream<'_> {
    /// The next part; `None` behind the last one.
    pub(super) fn fetch(&mut self) -> Result<Option<Outcome>, String> {
        let library = self.connection.library;
        // SAFETY: both handles are valid, and the result was started on this connection.
        let part = unsafe { (library.fetch)(self.connection.raw(), self.started.handle.as_ptr()) };
        let part = library.own(part)?;
        Ok(Some(part).filter(|part| !part.as_ref().is_empty()))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: as for `fetch`; to cancel what has ended is allowed and does nothing.
        unsafe {
            (self.connection.library.cancel)(self.connection.raw(), self.started.handle.as_ptr());
        }
    }
}

/// An INSERT under way. Dropped before it is done, it is given up.
#[derive(Debug)]
pub(super) struct Insert<'a> {
    connection: &'a mut Connection,
    handle: NonNull<c_void>,
}

impl Insert<'_> {
    /// Hands over some of the data.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), String> {
        // SAFETY: the handle is valid; the data are copied during the call.
        let state = unsafe {
            (self.connection.library.append)(self.handle.as_ptr(), data.as_ptr().cast(), data.len())
        };
        match state {
            0 => Ok(()),
            _ => Err(self.error().unwrap_or_else(|| "the engine takes no more data".into())),
        }
    }

    /// Says that these were all data, and waits until they are written.
    pub(super) fn done(self) -> Result<Outcome, String> {
        let library = self.connection.library;
        // SAFETY: the handle is valid; it is freed at our drop, as the header wants.
        library.own(unsafe { (library.done)(self.handle.as_ptr()) })
    }

    fn error(&self) -> Option<String> {
        // SAFETY: the handle is valid; the string is copied at once.
        unsafe { text((self.connection.library.insert_error)(self.handle.as_ptr())) }
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours. What was not done is cancelled by this.
        unsafe { (self.connection.library.free_insert)(self.handle.as_ptr()) }
    }
}
