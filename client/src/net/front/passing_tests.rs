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

const HALF_CLOSED_SHORT: Limits = Limits { half_closed: SHORT, ..NOTHING_SHORT };
const GONE_SHORT: Limits = Limits { gone: SHORT, ..NOTHING_SHORT };
const NOTHING_SHORT: Limits = Limits { half_closed: LONG, leaving: LONG, gone: LONG };

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
    let error = given_up(&ours, GONE_SHORT, PATIENCE).await;
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
    let (mut application, mut ours) = tcp().await;
    let (stream, theirs) = tokio::io::duplex(1_024);
    let target = tokio::spawn(target(theirs));
    let forwarding =
        tokio::spawn(async move { forward(&mut ours, (stream, None), Vec::new(), Body::Length(4)).await });
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

/// Of it the target takes some before the application has closed, and the rest after.
const UPLOAD_LEN: usize = 256 * 1024;
const TAKEN_BEFORE: usize = 192 * 1024;

#[tokio::test]
async fn what_a_program_said_before_it_closed_is_passed_on_though_its_system_answers_with_a_reset() {
    let (mut application, ours) = tcp().await;
    let (mut stream, mut target) = tokio::io::duplex(1_024);
    let progress = Progress::default();
    let mut read = Counted { application: &ours, progress: &progress };
    let upload = async {
        pass_body(&mut read, &mut stream, Body::Length(UPLOAD_LEN as u64)).await?;
        stream.shutdown().await
    };
    let limits = Limits { gone: PATIENCE, ..NOTHING_SHORT };
    let passing = while_there(&ours, &progress, LOOK, limits, upload);
    let program = async {
        let mut taken = vec![0; TAKEN_BEFORE];
        let said = async {
            application.write_all(&vec![7; UPLOAD_LEN]).await.unwrap();
            application.shutdown().await.unwrap();
        };
        tokio::join!(said, async { target.read_exact(&mut taken).await.unwrap() });
        while look(&ours, false).await.unwrap() == Seen::Open {
            sleep(LOOK).await;
        }
        sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
        drop(application);
        sleep(WHILE).await;
        target.read_to_end(&mut taken).await.unwrap();
        taken.len()
    };
    let (passed, taken) = timeout(PATIENCE, async { tokio::join!(passing, program) }).await.expect("an end");
    passed.unwrap();
    assert_eq!(taken, UPLOAD_LEN);
}

#[tokio::test]
async fn whoever_is_slow_to_read_is_not_given_up() {
    for (application, ours) in [tcp_half_closed().await, unix_half_closed().await] {
        // The system may find room for more after a while.
        let bytes = vec![0; 64 * 1024];
        let progress = Progress::default();
        let mut answer = Counted { application: &ours, progress: &progress };
        let answering = async { while answer.write_all(&bytes).await.is_ok() {} };
        tokio::select! {
            given_up = given_up(&ours, HALF_CLOSED_SHORT, WHILE) => assert_eq!(given_up, None),
            () = answering => panic!("it takes all"),
        }
        drop(application);
    }
}

async fn tcp_half_closed() -> (Application, Application) {
    let (mut application, ours) = tcp().await;
    application.shutdown().await.unwrap();
    (Application::Tcp(application), ours)
}

async fn unix_half_closed() -> (Application, Application) {
    let (mut application, ours) = unix();
    application.shutdown().await.unwrap();
    (Application::Unix(application), ours)
}

#[tokio::test]
async fn what_is_given_up_ends_as_a_reset() {
    let (mut application, ours) = tcp().await;
    application.shutdown().await.unwrap();
    let progress = Progress::default();
    let silent = while_there(&ours, &progress, LOOK, HALF_CLOSED_SHORT, std::future::pending());
    timeout(PATIENCE, silent).await.expect("an end").unwrap_err();
    drop(ours);
    let ended = timeout(PATIENCE, application.read(&mut [0])).await.expect("an end");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn applications_connections_are_probed() {
    let (_application, ours) = tcp().await;
    let tcp = ours.as_tcp().unwrap();
    assert!(!sockopt::socket_keepalive(tcp).unwrap());
    keep_alive(tcp).unwrap();
    assert!(sockopt::socket_keepalive(tcp).unwrap());
    assert_eq!(sockopt::tcp_keepidle(tcp).unwrap(), PROBE_HERE.after);
    for (peer, after) in [
        ("::1", PROBE_HERE.after),
        ("::ffff:127.0.0.1", PROBE_HERE.after),
        ("192.0.2.1", PROBE_ELSEWHERE.after),
    ] {
        assert_eq!(probe_for(peer.parse().unwrap()).after, after, "{peer}");
    }
}
