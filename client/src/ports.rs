//! Where the daemon can be reached: the port for applications and what goes with it, the status page, the control socket.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tunic_net::daemon::{RunOptions, Status, UnixLock, listen, open_unix};

use crate::config::Config;
use crate::net::Client;

/// The socket in the state directory by which `tunic-client status` and its kin reach the daemon.
pub const CONTROL_SOCKET: &str = "control.sock";

/// What is open.
pub(crate) struct Ports {
    applications: TcpListener,
    /// Where applications reach it.
    pub(crate) address: SocketAddr,
    unix: Option<(UnixListener, UnixLock)>,
    dns: Option<(UdpSocket, TcpListener)>,
    page: Option<TcpListener>,
    control: Option<(UnixListener, UnixLock)>,
}

impl Ports {
    /// Opens those that applications need; without one of them the daemon is of no use.
    pub(crate) async fn open(config: &Config, options: &RunOptions) -> anyhow::Result<Ports> {
        let applications = listen(options, config.socks, "socks")?;
        let address = applications.local_addr().context("the SOCKS listener has no address")?;
        let unix = config.unix_socket.as_deref().map(open_unix).transpose()?;
        let dns = match config.dns {
            Some(address) => Some(open_dns(address, options).await?),
            None => None,
        };
        Ok(Ports { applications, address, unix, dns, page: None, control: None })
    }

    /// Opens those that show what is going on, and tells the client of all. Where one of them cannot be opened the daemon goes
    /// on without, and says so.
    pub(crate) async fn open_status(&mut self, config: &Config, client: &Client) -> anyhow::Result<()> {
        client.note_port("applications", self.address.to_string(), None);
        if let Some(path) = &config.unix_socket {
            client.note_port("applications-unix", path.display().to_string(), None);
        }
        if let Some(address) = self.dns.as_ref().and_then(|(udp, _)| udp.local_addr().ok()) {
            client.note_port("dns", address.to_string(), None);
        }
        if let Some(wanted) = config.status.address() {
            self.page = self.open_page(wanted, client).await;
        }
        let path = control_path(&config.state_dir()?);
        self.control = noted(open_unix(&path), "control", path.display().to_string(), client);
        Ok(())
    }

    async fn open_page(&self, wanted: SocketAddr, client: &Client) -> Option<TcpListener> {
        let opened = TcpListener::bind(wanted).await.map_err(anyhow::Error::from);
        let local = opened.as_ref().ok().and_then(|listener| listener.local_addr().ok());
        noted(opened, "status", local.unwrap_or(wanted).to_string(), client)
    }

    /// Tells the starter where everything is.
    pub(crate) fn tell(&self, options: &RunOptions) {
        tracing::info!(
            port = self.address.port(),
            "the port for applications is open; connecting to the Tunic network"
        );
        options.tell(Status::Listening(self.address));
        if let Some(address) = self.page.as_ref().and_then(|page| page.local_addr().ok()) {
            tracing::info!(port = address.port(), "the status page is there, for a browser on this machine");
            options.tell(Status::Page(address));
        }
    }

    /// Serves all of them for ever.
    pub(crate) async fn serve(self, client: &Client) {
        let (unix, _unix_lock) = self.unix.unzip();
        let (control, _control_lock) = self.control.unzip();
        tokio::select! {
            () = client.serve_applications(self.applications) => {}
            () = if_there(unix.map(|listener| client.serve_unix(listener))) => {}
            () = if_there(self.dns.map(|(udp, tcp)| client.serve_dns(udp, tcp))) => {}
            () = if_there(self.page.map(|listener| client.serve_status(listener))) => {}
            () = if_there(control.map(|listener| client.serve_control(listener))) => {}
        }
    }
}

/// Where the control socket of a client with this state directory is.
pub fn control_path(state_dir: &Path) -> PathBuf {
    state_dir.join(CONTROL_SOCKET)
}

fn noted<T>(opened: anyhow::Result<T>, name: &str, address: String, client: &Client) -> Option<T> {
    let problem = opened.as_ref().err().map(|error| error.root_cause().to_string());
    if let Some(problem) = &problem {
        tracing::warn!(port = name, "the port is not open, and it goes on without: {problem}");
    }
    client.note_port(name, address, problem);
    opened.ok()
}

async fn if_there(serving: Option<impl Future<Output = ()>>) {
    match serving {
        Some(serving) => serving.await,
        None => std::future::pending().await,
    }
}

async fn open_dns(address: SocketAddr, options: &RunOptions) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let context = || format!("cannot open the DNS port {address} (setting `dns`)");
    if let (Some(udp), Some(tcp)) = (options.early.udp(address)?, options.early.tcp(address)?) {
        return Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?));
    }
    let tcp = TcpListener::bind(address).await.with_context(context)?;
    // Where the port was left open, both get the same one.
    let udp = UdpSocket::bind(tcp.local_addr()?).await.with_context(context)?;
    Ok((udp, tcp))
}
