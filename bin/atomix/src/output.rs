// SPDX-License-Identifier: Apache-2.0
//! Output that neither fails nor blocks the program.
//!
//! A reader of a pipe may stop reading or go away, and the disk under a log file may be full. So every stream has a bounded
//! buffer and a thread of its own, the only one that writes. Lines that find the buffer full or cannot be written are
//! dropped and counted, and the count is written when the stream works again.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use parking_lot::{Condvar, Mutex};

/// A stream of lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    work: Condvar,
    /// Notified when everything is written or dropped.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Lines that found the buffer full.
    dropped: u64,
    writing: bool,
    /// There is no thread that writes.
    closed: bool,
}

/// Makes the line that reports so many dropped lines; empty if the stream has no such lines.
pub(crate) type Notice = Box<dyn Fn(u64) -> Vec<u8> + Send>;

struct Writer<W> {
    out: W,
    notice: Notice,
    /// Lines that could not be written and were not reported yet.
    failed: u64,
    /// The last line stands there without its end.
    torn: bool,
}

/// Bytes that wait to be written.
const BUFFER_MAX: usize = 1 << 20;
/// The interval of retries on a failed stream while there is nothing new to write.
const RETRY: Duration = Duration::from_secs(1);
/// The time that the end of the program waits for unwritten lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

// === impl Sink ===

impl Sink {
    /// Starts the thread that writes to `out`. Without a thread everything is dropped.
    pub(crate) fn start(
        env: &Env,
        name: &'static str,
        out: io::Result<impl Write + Send + 'static>,
        notice: Notice,
    ) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let sink = Self { shared: Arc::clone(&shared) };
        let started = out.and_then(|out| {
            let mut writer = Writer { out, notice, failed: 0, torn: false };
            env.thread(name, move || writer.run(&shared))
        });
        sink.shared.state.lock().closed = started.is_err();
        sink
    }

    /// Puts `lines`, which end with a line feed, into the buffer; or counts them as dropped. Never waits.
    pub(crate) fn write(&self, lines: &[u8]) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        if state.buffer.len() + lines.len() > BUFFER_MAX {
            state.dropped += count(lines);
            return;
        }
        state.buffer.extend_from_slice(lines);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Waits until everything is written, but for one second at most.
    pub(crate) fn flush(&self) {
        let mut state = self.shared.state.lock();
        let busy = |state: &mut State| !state.closed && (state.writing || !state.buffer.is_empty());
        self.shared.idle.wait_while_for(&mut state, busy, FLUSH_TIMEOUT);
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Sink::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Writer ===

impl<W: Write> Writer<W> {
    fn run(&mut self, shared: &Shared) {
        let mut batch = Vec::new();
        loop {
            let dropped = {
                let mut state = shared.state.lock();
                state.writing = false;
                if state.buffer.is_empty() {
                    shared.idle.notify_all();
                }
                let nothing = |state: &mut State| state.buffer.is_empty() && state.dropped == 0;
                if self.failed > 0 {
                    shared.work.wait_while_for(&mut state, nothing, RETRY);
                } else {
                    shared.work.wait_while(&mut state, nothing);
                }
                state.writing = true;
                std::mem::swap(&mut state.buffer, &mut batch);
                std::mem::take(&mut state.dropped)
            };
            self.write(&batch, dropped);
            batch.clear();
            // A burst is no reason to keep its memory.
            batch.shrink_to(64 << 10);
        }
    }

    /// Writes the count of what was lost before, the batch, and the count of what was dropped after it.
    fn write(&mut self, batch: &[u8], dropped: u64) {
        let failed = self.failed;
        self.failed = if !self.report(failed) {
            failed + count(batch) + dropped
        } else if let Err(lost) = self.put(batch) {
            lost + dropped
        } else if !self.report(dropped) {
            dropped
        } else {
            0
        };
    }

    /// Writes how many lines are missing here. False if that fails.
    fn report(&mut self, lines: u64) -> bool {
        lines == 0 || self.put(&(self.notice)(lines)).is_ok()
    }

    /// Writes lines. An error is the number of those of which not all is written.
    fn put(&mut self, lines: &[u8]) -> Result<(), u64> {
        if self.torn && !lines.is_empty() {
            self.bytes(b"\n").map_err(|_| count(lines))?;
            self.torn = false;
        }
        self.bytes(lines).map_err(|written| {
            if written > 0 {
                self.torn = lines[written - 1] != b'\n';
            }
            count(&lines[written..])
        })
    }

    /// Writes bytes. An error is the number of those that are written.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => return Err(written),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Another process has made the stream non-blocking.
                    #[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do")]
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

#[allow(clippy::naive_bytecount, reason = "a few lines at a time")]
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A stream whose every write is decided by the test.
    struct Slow {
        asked: Sender<Vec<u8>>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.send(bytes.to_vec()).unwrap();
            // The end of the test leaves the thread behind, as a full pipe does.
            self.answers.recv().unwrap_or(Ok(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Sink, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let ((asked, asks), (answer, answers)) = (channel(), channel());
        let notice = |lines| format!("dropped {lines}\n").into_bytes();
        let sink = Sink::start(&Env::real(), "test", Ok(Slow { asked, answers }), Box::new(notice));
        (sink, asks, answer)
    }

    #[test]
    fn a_stream_that_is_not_read_never_blocks_and_tells_what_is_missing() {
        let (sink, asks, answer) = start();
        sink.write(b"first\n");
        assert_eq!(asks.recv().unwrap(), b"first\n");
        // The write does not return. What fits waits, the rest is dropped.
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..(BUFFER_MAX / line.len() + 7) {
            sink.write(&line);
        }
        sink.flush();
        answer.send(Ok(6)).unwrap();
        assert_eq!(asks.recv().unwrap().len(), BUFFER_MAX);
        answer.send(Ok(BUFFER_MAX)).unwrap();
        assert_eq!(asks.recv().unwrap(), b"dropped 7\n");
        answer.send(Ok(10)).unwrap();
        sink.write(b"last\n");
        assert_eq!(asks.recv().unwrap(), b"last\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_until_the_stream_works() {
        let full = || Err(io::ErrorKind::StorageFull.into());
        let (sink, asks, answer) = start();
        sink.write(b"one\ntwo\n");
        assert_eq!(asks.recv().unwrap(), b"one\ntwo\n");
        // The disk takes a line and a half.
        answer.send(Ok(6)).unwrap();
        assert_eq!(asks.recv().unwrap(), b"o\n");
        answer.send(full()).unwrap();
        // It is tried again without a new line, and then with one.
        assert_eq!(asks.recv().unwrap(), b"\n");
        sink.write(b"three\n");
        answer.send(full()).unwrap();
        let mut again = asks.recv().unwrap();
        assert_eq!(again, b"\n");
        answer.send(Ok(1)).unwrap();
        again = asks.recv().unwrap();
        // The third line may have come before or after the second attempt.
        assert!(again == b"dropped 2\n" || again == b"dropped 1\n", "{again:?}");
        answer.send(Ok(again.len())).unwrap();
        if again == b"dropped 1\n" {
            assert_eq!(asks.recv().unwrap(), b"three\n");
            answer.send(Ok(6)).unwrap();
        }
        sink.flush();
        sink.write(b"four\n");
        assert_eq!(asks.recv().unwrap(), b"four\n");
    }

    #[test]
    fn without_a_stream_everything_is_dropped() {
        let none: io::Result<Vec<u8>> = Err(io::ErrorKind::NotFound.into());
        let sink = Sink::start(&Env::real(), "test", none, Box::new(|_| Vec::new()));
        sink.write(b"line\n");
        sink.flush();
    }
}
