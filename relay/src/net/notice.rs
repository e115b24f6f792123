//! The page for who looks up an exit's address because of the traffic that came from it.

use hyper::body::Bytes;
use tokio::net::TcpListener;
use tunic_net::daemon::watch;
use tunic_net::http::{self, Audience, Page};

use crate::config::Config;

const TEMPLATE: &str = include_str!("notice.html");
const NO_CONTACT: &str =
    "The operator has left no address. Whoever runs this network (the address's WHOIS entry) can reach them.";

/// Shows the page at every path while the relay is an exit, until dropped.
pub(super) async fn serve(listener: TcpListener, settings: watch::Receiver<Config>) {
    let page = move |_: &str| {
        let config = settings.borrow();
        let body = Bytes::from(page(config.contact.as_deref()));
        config.is_exit().then_some(Page { content_type: "text/html; charset=utf-8", body })
    };
    http::serve(listener, Audience::Everybody, page).await;
}

fn page(contact: Option<&str>) -> String {
    TEMPLATE.replace("{contact}", &contact.map_or_else(|| NO_CONTACT.to_owned(), escape))
}

/// For text between tags.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_whom_to_ask() {
        assert!(page(Some("abuse@example.org")).contains("<p>abuse@example.org</p>"));
        assert!(page(None).contains("WHOIS"));
    }

    #[test]
    fn a_contact_is_text_not_markup() {
        let page = page(Some("<script>a & b</script>"));
        assert!(page.contains("&lt;script&gt;a &amp; b&lt;/script&gt;") && !page.contains("<script>"));
    }
}
