//! What is believed of an exit's answer to a lookup (docs/protocol.md §6.7).
//!
//! Only records of the kind that was asked for. Addresses that are not public only if the person said so: with one, an exit
//! could make a program talk to the person's own machine or network instead ("DNS rebinding").

use tunic_proto::resolve::{Answer, Query, Record};
use tunic_proto::special;

/// The records that may be used; `None` if there is none.
pub fn believable(query: &Query, answer: Answer, allow_private: bool) -> Option<Answer> {
    let Answer { ttl, mut records } = answer;
    records.retain(|record| match (query, record) {
        (Query::Name(_), Record::Addr(ip)) => allow_private || special::is_public(*ip),
        (Query::Addr(_), Record::Name(_)) => true,
        (Query::Name(_), Record::Name(_)) | (Query::Addr(_), Record::Addr(_)) => false,
    });
    (!records.is_empty()).then_some(Answer { ttl, records })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::resolve::MIN_TTL;

    #[track_caller]
    fn check(query: &Query, allow_private: bool, told: &[&Record], expect: &[&Record]) {
        let records = |of: &[&Record]| of.iter().copied().cloned().collect();
        let answer = Answer { ttl: MIN_TTL, records: records(told) };
        let found = believable(query, answer, allow_private).map_or(Vec::new(), |answer| answer.records);
        assert_eq!(found, records(expect));
    }

    #[test]
    fn only_records_that_were_asked_for_and_do_no_harm_are_believed() {
        let [public, router, own, metadata] =
            ["93.184.215.14", "192.168.1.1", "::ffff:127.0.0.1", "169.254.169.254"]
                .map(|ip| Record::Addr(ip.parse().unwrap()));
        let name = Record::Name("www.example".into());
        let asked = Query::Name("www.example".into());
        check(&asked, false, &[&router, &public, &own, &name], &[&public]);
        check(&asked, false, &[&router, &own, &metadata], &[]);
        check(&asked, true, &[&router, &name, &public], &[&router, &public]);
        check(&asked, true, &[&name], &[]);
        let asked = Query::Addr([93, 184, 215, 14].into());
        check(&asked, true, &[&public, &name], &[&name]);
        check(&asked, false, &[&public], &[]);
    }
}
