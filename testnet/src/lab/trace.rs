//! What the observer writes: eight bytes that name the format, then one record a packet, little-endian, in the order in
//! which the kernel handed the packets over:
//!
//! `time_us u64 | link u16 | bytes u16 | payload u16 | direction u8 | 0 u8`
//!
//! `testnet/lab/traces.py` reads the same.

use std::io::{self, Write};

/// The first bytes of a trace.
pub const MAGIC: [u8; 8] = *b"TUNLAB1\n";
/// Bytes of a record.
pub const RECORD_LEN: usize = 16;
/// The link of the sites' servers to exits begins here: it has this number plus that of the client whose visit it is.
pub const SITE_LINKS: u16 = 1_000;

/// One packet as somebody on the line sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// When, microseconds of the system clock.
    pub time_us: u64,
    /// Where.
    pub link: u16,
    /// Its length with the Ethernet header.
    pub bytes: u16,
    /// Bytes that TCP carries in it.
    pub payload: u16,
    /// Whether it goes away from the person.
    pub forward: bool,
}

impl Packet {
    /// Its record.
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[..8].copy_from_slice(&self.time_us.to_le_bytes());
        record[8..10].copy_from_slice(&self.link.to_le_bytes());
        record[10..12].copy_from_slice(&self.bytes.to_le_bytes());
        record[12..14].copy_from_slice(&self.payload.to_le_bytes());
        record[14] = u8::from(self.forward);
        record
    }

    /// Reads a record; `None` if it is none.
    pub fn decode(record: &[u8; RECORD_LEN]) -> Option<Packet> {
        let (time, rest) = record.split_first_chunk::<8>()?;
        let field = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        let forward = match (rest[6], rest[7]) {
            (0, 0) => false,
            (1, 0) => true,
            _ => return None,
        };
        let time_us = u64::from_le_bytes(*time);
        Some(Packet { time_us, link: field(0), bytes: field(2), payload: field(4), forward })
    }
}

/// Writes a trace.
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Writer(out))
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, packet: &Packet) -> io::Result<()> {
        self.0.write_all(&packet.encode())
    }

    /// Ends it.
    ///
    /// # Errors
    /// If the rest cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads a whole trace.
///
/// # Errors
/// If these bytes are no trace, or it ends within a record.
pub fn read(bytes: &[u8]) -> io::Result<Vec<Packet>> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let records = bytes.strip_prefix(&MAGIC).ok_or_else(|| wrong("this is no trace"))?;
    let (records, rest) = records.as_chunks::<RECORD_LEN>();
    if !rest.is_empty() {
        return Err(wrong("the trace ends within a record"));
    }
    records.iter().map(|record| Packet::decode(record).ok_or_else(|| wrong("a record is damaged"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKET: Packet =
        Packet { time_us: 0x0102_0304, link: 5, bytes: 1_514, payload: 1_448, forward: true };

    fn written(packets: &[Packet]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        packets.iter().for_each(|packet| writer.write(packet).unwrap());
        writer.finish().unwrap();
        bytes
    }

    /// `test_lab.py` reads the same bytes.
    #[test]
    fn a_record_has_these_bytes() {
        let hex = "54554e4c4142310a".to_owned() + "0403020100000000" + "0500" + "ea05" + "a805" + "01" + "00";
        assert_eq!(hex::encode(written(&[PACKET])), hex);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let trace = written(&[PACKET]);
        assert!(read(&trace[1..]).is_err());
        assert!(read(&trace[..trace.len() - 1]).is_err());
        let mut damaged = trace.clone();
        damaged[8 + 14] = 2;
        assert!(read(&damaged).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(time_us: u64, link: u16, bytes: u16, payload: u16, forward: bool) {
            let packets = [PACKET, Packet { time_us, link, bytes, payload, forward }];
            prop_assert_eq!(read(&written(&packets)).unwrap(), packets);
        }
    }
}
