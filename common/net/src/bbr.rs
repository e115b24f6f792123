//! What BBR, the congestion control of the system's TCP, knows of a connection, and a limit to how fast it sends.

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// What the system calls it.
pub(crate) const NAME: &[u8] = b"bbr";

/// Whether the connection has it.
pub(crate) fn is_chosen(tcp: &TcpStream) -> bool {
    let name = SockRef::from(tcp).tcp_congestion().unwrap_or_default();
    name.strip_prefix(NAME).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

/// What it has found out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// Bytes per second, of its last rounds the most.
    pub(crate) rate: u64,
    /// The shortest round trip of the last ten seconds; what is longer than an hour before there was any.
    pub(crate) shortest: Duration,
}

/// `struct tcp_bbr_info` of linux/inet_diag.h.
#[repr(C)]
#[derive(Default)]
struct Info {
    rate_low: u32,
    rate_high: u32,
    shortest_us: u32,
    pacing_gain: u32,
    window_gain: u32,
}

/// What BBR has found out; `None` if the connection has another algorithm.
#[expect(unsafe_code, reason = "no safe function asks for TCP_CC_INFO")]
pub(crate) fn path(tcp: &TcpStream) -> Option<Path> {
    let mut info = Info::default();
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `tcp` is borrowed. The system writes at most `length` bytes to `info`, which is
    // that large, and their number to `length`; any bytes are an `Info`, whose fields are integers and leave no gaps.
    let result = unsafe {
        libc::getsockopt(
            tcp.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CC_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    // Other algorithms tell less, or nothing.
    (result == 0 && length as usize == size_of::<Info>()).then(|| Path {
        rate: u64::from(info.rate_high) << 32 | u64::from(info.rate_low),
        shortest: Duration::from_micros(info.shortest_us.into()),
    })
}

/// Limits how fast the system sends on the connection, in bytes per second. Where that fails it sends as fast as before.
#[expect(unsafe_code, reason = "no safe function sets SO_MAX_PACING_RATE")]
pub(crate) fn limit(tcp: &TcpStream, rate: u64) {
    let rate = libc::c_ulong::try_from(rate).unwrap_or(libc::c_ulong::MAX);
    let length = size_of_val(&rate) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `tcp` is borrowed. The system reads `length` bytes of `rate`, which is that large,
    // and keeps no pointer to it.
    unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            length,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn it_tells_what_it_found_out_and_keeps_to_a_limit() {
        const LEN: usize = 1 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut peer = listener.accept().await.unwrap().0;
        assert_eq!(path(&tcp).is_some(), is_chosen(&tcp));
        limit(&tcp, 4 << 20);
        let start = clock::now();
        let write = async {
            tcp.write_all(&vec![7; LEN]).await.unwrap();
            tcp
        };
        let (tcp, read) = tokio::join!(write, async { peer.read_exact(&mut vec![0; LEN]).await.unwrap() });
        assert_eq!(read, LEN);
        assert!(
            clock::now() - start > Duration::from_millis(100),
            "a quarter of a second, but for its first burst"
        );
        if let Some(path) = path(&tcp) {
            assert!(path.rate > 0 && path.shortest < Duration::from_secs(60), "{path:?}");
        }
        for other in [&b"reno"[..], b"cubic"] {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            if SockRef::from(&tcp).set_tcp_congestion(other).is_ok() {
                assert!(path(&tcp).is_none() && !is_chosen(&tcp));
            }
        }
    }
}
