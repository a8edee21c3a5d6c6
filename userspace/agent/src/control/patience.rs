//! Drops clients that read nothing of their answer for a while, and clients that disconnected: each would keep its
//! place.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use taskgate_net::sys::register;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::UnixStream,
    time::{Instant, Sleep, sleep},
};

/// A stream whose writes fail after no byte could be written for `patience`.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// The deadline of the write that waits; `None` while none does.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waits: None,
        }
    }

    /// Passes on the result of a write, or fails a write that has been waiting for too long.
    fn bound<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waits = None;
            return done;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waits.as_mut().poll(context));
        waits.as_mut().reset(Instant::now() + patience);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, from);
        self.bound(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        self.bound(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Detects that the peer has closed its connection, even while data from it is still unread.
#[derive(Debug)]
pub(super) struct HangUp(AsyncFd<OwnedFd>);

impl HangUp {
    /// Watches a connection.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        // No urgent data arrives here, so with this interest the kernel wakes the task for a hang-up alone.
        let file = stream.as_fd().try_clone_to_owned()?;
        register(file, Interest::PRIORITY).map(Self)
    }

    /// Waits for the hang-up.
    pub(super) async fn heard(&self) {
        loop {
            match self.0.ready(Interest::PRIORITY).await {
                Ok(guard) if guard.ready().is_read_closed() => return,
                Ok(mut guard) => guard.clear_ready(),
                // The runtime is shutting down, and the connection with it.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (ours, mut theirs) = duplex(8);
        let mut ours = Patient::new(ours, Duration::from_millis(50));
        ours.write_all(b"12345678").await.unwrap();
        let begun = Instant::now();
        let refused = ours.write_all(b"9").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(50));

        // A slow reader is not given up.
        let mut taken = [0; 8];
        theirs.read_exact(&mut taken).await.unwrap();
        let write = ours.write_all(&[7; 64]);
        let read = async {
            for _ in 0..64 {
                sleep(Duration::from_millis(5)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        tokio::join!(write, read).0.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_heard_of() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let hang_up = HangUp::of(&ours).unwrap();
        theirs.try_write(b"left to be read").unwrap();
        let still = tokio::time::timeout(Duration::from_millis(50), hang_up.heard()).await;
        assert!(still.is_err());
        drop(theirs);
        hang_up.heard().await;
    }
}
