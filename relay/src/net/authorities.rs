//! How a relay asks the authorities: over a circuit of one hop, as clients do.

use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tunic_net::channel::{HopSpec, Node, Peer};
use tunic_net::config::AuthorityConfig;
use tunic_net::dirstream;
use tunic_proto::dir::{Request, Response};

/// How long one exchange may take, connecting included: 16 MiB at 140 KiB/s.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// The authorities that the relay is configured with, told apart by their index.
pub struct Authorities {
    node: Node,
    list: Vec<AuthorityConfig>,
}

impl Authorities {
    /// Asks these authorities through this node.
    pub fn new(node: Node, list: Vec<AuthorityConfig>) -> Self {
        Authorities { node, list }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Asks one of them.
    ///
    /// # Errors
    /// If it cannot be reached, is not who it should be, or breaks the protocol. What it refuses is a response.
    pub async fn ask(&self, index: usize, request: &Request) -> anyhow::Result<Response> {
        let authority = self.list.get(index).context("no such authority")?;
        let exchange = async {
            let peer = Peer { id: authority.identity, addresses: authority.addresses.clone() };
            let channel = self.node.connect(&peer).await?;
            let hop = HopSpec { id: authority.identity, onion_key: authority.onion_key };
            let circuit = channel.create_circuit(vec![hop]).await?;
            anyhow::Ok(dirstream::request(&circuit, request).await?)
        };
        timeout(EXCHANGE_TIMEOUT, exchange).await.context("the authority took too long")?
    }
}
