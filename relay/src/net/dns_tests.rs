//! What an exit believes of a name server that signs, forges, forgets to sign, or says nothing: a root zone of the test's
//! own, on loopback.

use super::*;
use hickory_resolver::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_resolver::proto::dnssec::{DnssecSigner, SigningKey};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SOA};
use hickory_resolver::proto::rr::{DNSClass, Record as DnsRecord, RecordSet};
use time::OffsetDateTime;
use tokio::net::UdpSocket;
use tunic_net::daemon::unix_now;

const TTL: u32 = 600;
const ADDRESS: [u8; 4] = [93, 184, 215, 14];

/// A root zone that holds everything, and its key.
struct Zone {
    signer: DnssecSigner,
    key: DNSKEY,
}

impl Zone {
    fn new() -> Self {
        let pkcs8 = Ed25519SigningKey::generate_pkcs8().unwrap();
        let key = Ed25519SigningKey::from_pkcs8(&pkcs8).unwrap();
        let public = DNSKEY::from_key(&key.to_public_key().unwrap());
        let signer =
            DnssecSigner::new(public.clone(), Box::new(key), Name::root(), Duration::from_secs(86_400));
        Zone { signer, key: public }
    }

    fn anchors(&self) -> TrustAnchors {
        let mut anchors = TrustAnchors::empty();
        anchors.insert(self.key.public_key());
        anchors
    }

    /// The record and its signature.
    fn signed(&self, name: &Name, data: RData) -> [DnsRecord; 2] {
        let record = DnsRecord::from_rdata(name.clone(), TTL, data);
        let mut set = RecordSet::new(name.clone(), record.record_type(), 0);
        set.insert(record.clone(), 0);
        let begin = OffsetDateTime::from_unix_timestamp(unix_now().0 as i64 - 3_600).unwrap();
        let signature = RRSIG::from_rrset(&set, DNSClass::IN, begin, &self.signer).unwrap();
        [record, DnsRecord::from_rdata(name.clone(), TTL, RData::DNSSEC(DNSSECRData::RRSIG(signature)))]
    }

    /// Proves that nothing but the root's own records is there.
    fn nothing(&self, answer: &mut Message, code: ResponseCode) {
        let root = Name::root();
        let types =
            [RecordType::DNSKEY, RecordType::NS, RecordType::SOA, RecordType::NSEC, RecordType::RRSIG];
        let nsec = NSEC::new(root.clone(), types);
        let soa = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, TTL);
        answer.add_authorities(self.signed(&root, RData::SOA(soa)));
        answer.add_authorities(self.signed(&root, RData::DNSSEC(DNSSECRData::NSEC(nsec))));
        answer.metadata.response_code = code;
    }

    fn answer(&self, question: &Message) -> Message {
        let mut answer = question.clone().into_response();
        answer.metadata.recursion_available = true;
        let query = question.queries[0].clone();
        let (name, kind) = (query.name().clone(), query.query_type());
        let text = name.to_ascii().to_ascii_lowercase();
        let ipv4 = RData::A(A(ADDRESS.into()));
        match (text.as_str(), kind) {
            (".", RecordType::DNSKEY) => {
                answer.add_answers(self.signed(&name, RData::DNSSEC(DNSSECRData::DNSKEY(self.key.clone()))));
            }
            ("signed.test.", RecordType::A) => {
                answer.add_answers(self.signed(&name, ipv4));
            }
            ("both.test.", RecordType::A) => {
                answer.add_answers(self.signed(&name, ipv4));
            }
            ("both.test.", RecordType::AAAA) => {
                let ip = AAAA("2606:4700::1111".parse().unwrap());
                answer.add_answers(self.signed(&name, RData::AAAA(ip)));
            }
            ("forged.test.", RecordType::A) => {
                let [mut record, signature] = self.signed(&name, ipv4);
                record.data = RData::A(A([198, 51, 100, 1].into()));
                answer.add_answers([record, signature]);
            }
            ("stripped.test.", RecordType::A) => {
                answer.add_answer(DnsRecord::from_rdata(name, TTL, ipv4));
            }
            ("signed.test." | "forged.test." | "stripped.test.", _) => {
                self.nothing(&mut answer, ResponseCode::NoError)
            }
            ("broken.test.", _) => answer.metadata.response_code = ResponseCode::ServFail,
            _ => self.nothing(&mut answer, ResponseCode::NXDomain),
        }
        answer
    }
}

/// A name server for the zone, and how it is configured.
async fn serve(zone: Zone, change: impl FnOnce(&mut ExitConfig)) -> Dns {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = ExitConfig { nameservers: vec![socket.local_addr().unwrap()], ..ExitConfig::default() };
    change(&mut config);
    let dns = Dns::build(&config, zone.anchors()).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            socket.send_to(&zone.answer(&question).to_vec().unwrap(), from).await.unwrap();
        }
    });
    dns
}

async fn ask(dns: &Dns, name: &str) -> (Outcome, bool) {
    let reply = dns.ask(Query::Name(name.into())).await;
    (reply.outcome, reply.bogus)
}

fn found(ips: &[&str]) -> Outcome {
    Ok(ips.iter().map(|ip| Record::Addr(ip.parse().unwrap())).collect())
}

#[tokio::test]
async fn only_answers_that_prove_themselves_are_believed() {
    let dns = serve(Zone::new(), |_| {}).await;
    assert_eq!(ask(&dns, "signed.test.").await, (found(&["93.184.215.14"]), false));
    assert_eq!(ask(&dns, "forged.test.").await, (Err(EndReason::NameNotFound), true));
    assert_eq!(ask(&dns, "stripped.test.").await, (Err(EndReason::NameNotFound), true));
    assert_eq!(ask(&dns, "missing.test.").await, (Err(EndReason::NameNotFound), false));
}

#[tokio::test]
async fn a_key_that_nobody_vouches_for_proves_nothing() {
    let (zone, other) = (Zone::new(), Zone::new());
    let dns = serve(Zone { signer: other.signer, key: zone.key }, |_| {}).await;
    assert_eq!(ask(&dns, "signed.test.").await, (Err(EndReason::NameNotFound), true));
    assert!(dns.complaint().await.unwrap().contains("signatures"));
}

#[tokio::test]
async fn without_validation_the_name_server_is_believed() {
    let dns = serve(Zone::new(), |config| config.dnssec = Some(false)).await;
    assert_eq!(ask(&dns, "forged.test.").await, (found(&["198.51.100.1"]), false));
    assert_eq!(ask(&dns, "stripped.test.").await, (found(&["93.184.215.14"]), false));
    assert_eq!(ask(&dns, "broken.test.").await.0, Err(EndReason::NameNotFound));
}

#[tokio::test]
async fn both_families_are_asked_for_unless_ipv6_is_off() {
    let mut both = ask(&serve(Zone::new(), |_| {}).await, "both.test.").await.0.unwrap().to_vec();
    both.sort_by_key(|record| format!("{record:?}"));
    assert_eq!(both, found(&["2606:4700::1111", "93.184.215.14"]).unwrap().to_vec());
    let ipv4 = serve(Zone::new(), |config| config.ipv6 = Ipv6::No).await;
    assert_eq!(ask(&ipv4, "both.test.").await.0, found(&["93.184.215.14"]));
}

#[tokio::test]
async fn a_lifetime_is_told() {
    let dns = serve(Zone::new(), |_| {}).await;
    let reply = dns.ask(Query::Name("signed.test.".into())).await;
    assert_eq!(reply.ttl, Duration::from_secs(TTL.into()));
}

#[tokio::test]
async fn the_hosts_file_counts_in_private_networks_only() {
    let private = serve(Zone::new(), |config| config.allow_private = true).await;
    let (outcome, _) = ask(&private, "localhost").await;
    assert!(outcome.unwrap().contains(&Record::Addr([127, 0, 0, 1].into())));
    let name = private.ask(Query::Addr([127, 0, 0, 1].into())).await.outcome;
    assert_eq!(name.unwrap().to_vec(), [Record::Name("localhost".into())]);
}
