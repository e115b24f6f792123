//! Programs that are killed in the middle, and answers that come early.

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LOOK: Duration = Duration::from_millis(2);
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of it the target takes all or some before the program is killed; what is left fits into the system's buffers.
const UPLOAD_LEN: usize = 256 * 1024;
const TAKEN_BEFORE: usize = 192 * 1024;
/// Which of two looks at the connection first is chance.
const TRIES: usize = 12;

async fn tcp() -> (TcpStream, Application) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (application, Application::Tcp(listener.accept().await.unwrap().0))
}

/// As a program that is killed: no end of its half comes before.
fn kill(application: TcpStream) {
    sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
    drop(application);
}

async fn until_ended(ours: &Application) {
    while look(ours, false).await.unwrap() == Seen::Open {
        sleep(LOOK).await;
    }
}

/// How an upload ends whose program is killed once the target has taken so much of it.
async fn check_killed(taken: usize) {
    let (mut application, ours) = tcp().await;
    let (mut stream, mut target) = tokio::io::duplex(1_024);
    let progress = Progress::default();
    let mut read = Counted { application: &ours, progress: &progress };
    let upload = async move {
        tokio::io::copy(&mut read, &mut stream).await?;
        stream.shutdown().await
    };
    let passing = while_there(&ours, &progress, LOOK, Limits::default(), upload);
    let program = async {
        let said = application.write_all(&[7; UPLOAD_LEN]);
        let mut buffer = vec![0; taken];
        let (said, took) = tokio::join!(said, target.read_exact(&mut buffer));
        said.unwrap();
        took.unwrap();
        kill(application);
        until_ended(&ours).await;
        // The target takes more only after it was looked whether the program is there.
        sleep(10 * LOOK).await;
        let _ = target.read_to_end(&mut buffer).await;
    };
    let (passed, ()) = timeout(PATIENCE, async { tokio::join!(passing, program) }).await.expect("an end");
    assert_eq!(passed.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{taken} bytes were taken");
}

#[tokio::test]
async fn a_program_that_is_killed_in_mid_upload_does_not_end_it_orderly() {
    for _ in 0..TRIES {
        check_killed(UPLOAD_LEN).await;
        check_killed(TAKEN_BEFORE).await;
    }
}

/// The answer that a program reads once it has said what it can, when the target answers before it has heard all, and closes.
async fn check_answered_early(early: &[u8], heard: usize) {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n";
    let (mut application, mut ours) = tcp().await;
    let (stream, mut target) = tokio::io::duplex(1_024);
    let (early, body) = (early.to_vec(), Body::Length(UPLOAD_LEN as u64));
    let forwarding = tokio::spawn(async move { forward(&mut ours, (stream, None), early, body).await });
    let said = application.write_all(&[7; UPLOAD_LEN]);
    let answering = async {
        target.read_exact(&mut vec![0; heard]).await.unwrap();
        target.write_all(ANSWER).await.unwrap();
        drop(target);
    };
    let both = timeout(PATIENCE, async { tokio::join!(said, answering) });
    both.await.expect("all is taken").0.expect("nothing is reset");
    let mut answer = Vec::new();
    timeout(PATIENCE, application.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert_eq!(answer, ANSWER);
    drop(application);
    timeout(PATIENCE, forwarding).await.expect("an end").unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_is_not_cut_off() {
    for _ in 0..TRIES {
        check_answered_early(b"", TAKEN_BEFORE).await;
        check_answered_early(&[7; 4_096], 1).await;
    }
}
