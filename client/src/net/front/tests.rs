use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A connected pair: the application's end and ours.
async fn pair() -> (TcpStream, Application) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (application, Application::Tcp(listener.accept().await.unwrap().0))
}

fn settings(ours: &Application) -> Settings {
    Settings { password: None, local: Some(ours.as_tcp().unwrap().local_addr().unwrap()) }
}

#[tokio::test]
async fn what_is_sent_at_once_is_understood_in_order() {
    let (mut application, mut ours) = pair().await;
    let request = [&[5, 1, 0, 5, 1, 0, 3, 11][..], b"example.com", &443u16.to_be_bytes(), b"early"].concat();
    application.write_all(&request).await.unwrap();
    application.shutdown().await.unwrap();
    let settings = settings(&ours);
    let (request, mut early) = handshake(&mut ours, settings, &Warnings::default()).await.unwrap().unwrap();
    assert_eq!(request.command, Command::Connect(Target::Name("example.com".into(), 443)));
    ours.read_to_end(&mut early).await.unwrap();
    assert_eq!(early, b"early");
}

#[tokio::test]
async fn whoever_is_refused_gets_a_whole_answer_though_much_of_the_request_was_not_read() {
    let (mut application, mut ours) = pair().await;
    let settings = settings(&ours);
    let server = tokio::spawn(async move { handshake(&mut ours, settings, &Warnings::default()).await });
    let request = [b"GET / HTTP/1.1\r\nCookie: ", &[b'x'; 32 * 1024][..], b"\r\n\r\n"].concat();
    application.write_all(&request).await.unwrap();
    let mut answer = String::new();
    application.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.ends_with("too long.\n"), "{answer}");
    drop(application);
    assert!(server.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn an_application_that_goes_away_ends_the_handshake() {
    let (mut application, mut ours) = pair().await;
    application.write_all(&[5, 1]).await.unwrap();
    drop(application);
    let settings = settings(&ours);
    let error = handshake(&mut ours, settings, &Warnings::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
