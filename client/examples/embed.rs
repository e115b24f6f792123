//! Tunic inside another program: a stream through three relays, read and written like any other.
//!
//! ```console
//! cargo run -p tunic-client --example embed -- client.toml example.com 80
//! ```

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunic_client::{Client, Config, Isolation, RunOptions, Target};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, file, host, port] = &words[..] else { anyhow::bail!("usage: embed CONFIG HOST PORT") };

    let client = Client::start(Config::load(file.as_ref())?, RunOptions::default()).await?;
    let target = Target::Name(host.clone(), port.parse()?);
    let (mut stream, path) = client.connect(target, Isolation::named("embed")).await?;
    eprintln!("connected through {} relays", path.hops.len());
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;
    println!("{}", String::from_utf8_lossy(&page));
    client.shutdown().await;
    Ok(())
}
