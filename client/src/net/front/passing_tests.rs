use std::net::Shutdown;

use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

use super::*;

const LOOK: Duration = Duration::from_millis(2);
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3_600);
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long something that must not happen is waited for.
const WHILE: Duration = Duration::from_millis(200);

async fn tcp() -> (TcpStream, Application) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (application, Application::Tcp(listener.accept().await.unwrap().0))
}

fn unix() -> (UnixStream, Application) {
    let (application, ours) = UnixStream::pair().unwrap();
    (application, Application::Unix(ours))
}

async fn given_up(ours: &Application, limits: Limits, within: Duration) -> Option<io::ErrorKind> {
    let progress = Progress::default();
    timeout(within, abandoned(ours, &progress, LOOK, limits)).await.ok().map(|error| error.kind())
}

const HALF_CLOSED_SHORT: Limits = Limits { half_closed: SHORT, gone: LONG };
const GONE_SHORT: Limits = Limits { half_closed: LONG, gone: SHORT };
const NOTHING_SHORT: Limits = Limits { half_closed: LONG, gone: LONG };

#[tokio::test]
async fn whoever_has_ended_its_half_is_given_up_when_nothing_happens_for_long() {
    let (mut application, ours) = tcp().await;
    assert_eq!(given_up(&ours, HALF_CLOSED_SHORT, WHILE).await, None, "it may still speak");
    application.shutdown().await.unwrap();
    assert_eq!(given_up(&ours, NOTHING_SHORT, WHILE).await, None, "it may still listen");
    assert_eq!(given_up(&ours, HALF_CLOSED_SHORT, PATIENCE).await, Some(io::ErrorKind::TimedOut));

    let (mut application, ours) = unix();
    application.shutdown().await.unwrap();
    assert_eq!(given_up(&ours, GONE_SHORT, WHILE).await, None, "it may still listen");
    assert_eq!(given_up(&ours, HALF_CLOSED_SHORT, PATIENCE).await, Some(io::ErrorKind::TimedOut));
}

#[tokio::test]
async fn whoever_resets_or_closes_is_noticed_without_a_word_from_the_target() {
    let (mut application, ours) = tcp().await;
    application.shutdown().await.unwrap();
    sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
    drop(application);
    let error = given_up(&ours, NOTHING_SHORT, PATIENCE).await;
    assert!(matches!(error, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)), "{error:?}");

    let (application, ours) = unix();
    drop(application);
    assert_eq!(given_up(&ours, GONE_SHORT, PATIENCE).await, Some(io::ErrorKind::TimedOut));
}

#[tokio::test]
async fn an_upload_that_outlives_the_answer_is_not_taken_for_a_closed_connection() {
    let (application, ours) = unix();
    ours.end_half().unwrap();
    application.into_std().unwrap().shutdown(Shutdown::Write).unwrap();
    let progress = Progress::default();
    progress.ended.store(true, Ordering::Relaxed);
    assert!(timeout(WHILE, abandoned(&ours, &progress, LOOK, GONE_SHORT)).await.is_err());
}

/// What comes back over a plain HTTP request whose target does this with its end.
async fn answered<F>(target: impl FnOnce(tokio::io::DuplexStream) -> F) -> Vec<u8>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut application, ours) = tcp().await;
    let (stream, theirs) = tokio::io::duplex(1_024);
    let target = tokio::spawn(target(theirs));
    let forwarding = tokio::spawn(async move { forward(&ours, stream, Body::Length(4)).await });
    application.write_all(b"body").await.unwrap();
    application.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, application.read_to_end(&mut answer)).await.expect("an end").unwrap();
    forwarding.await.unwrap().unwrap();
    target.await.unwrap();
    answer
}

#[tokio::test]
async fn a_request_is_answered_though_the_program_has_ended_its_half() {
    let answer = answered(|mut theirs| async move {
        let mut body = [0; 4];
        theirs.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        sleep(WHILE).await;
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\nslow").await.unwrap();
    });
    assert_eq!(answer.await, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nslow");
}

#[tokio::test]
async fn applications_connections_are_probed() {
    let (_application, ours) = tcp().await;
    let tcp = ours.as_tcp().unwrap();
    assert!(!sockopt::socket_keepalive(tcp).unwrap());
    keep_alive(tcp).unwrap();
    assert!(sockopt::socket_keepalive(tcp).unwrap());
    assert_eq!(sockopt::tcp_keepidle(tcp).unwrap(), PROBE_AFTER);
}
