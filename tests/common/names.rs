//! A name server as a test wants it: it answers with what it was told last, and with a TTL of a second.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Questions for A get no answer but SERVFAIL.
    FailsForA,
    /// So do those for AAAA.
    FailsForAaaa,
    /// Questions for AAAA get no answer at all.
    SilentForAaaa,
    /// Priority, weight, port and target.
    Srv(u16, u16, u16, &'static str),
}

type Zone = Arc<Mutex<Vec<(&'static str, Record)>>>;

/// It runs until the test is over.
pub struct NameServer {
    pub address: SocketAddr,
    zone: Zone,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub fn new(records: &[(&'static str, Record)]) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), Zone::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let server = NameServer { address, zone: zone.clone(), asked: asked.clone() };
        server.tell(records);
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((bytes, peer)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..bytes], &zone.lock().unwrap()) {
                    socket.send_to(&answer, peer).unwrap();
                }
                asked.fetch_add(1, SeqCst);
            }
        });
        server
    }

    /// Questions that came.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    /// From now on this is all it knows.
    pub fn tell(&self, records: &[(&'static str, Record)]) {
        *self.zone.lock().unwrap() = records.to_vec();
    }
}

/// RFC 1035, section 4: the question again, and the records of its name and type; NXDOMAIN where the name has none at all, SERVFAIL where it is to fail.
fn answer(query: &[u8], zone: &[(&'static str, Record)]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + len]).to_lowercase());
        at += len + 1;
    }
    let question = &query[12..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".");
    let known: Vec<&Record> = zone.iter().filter(|(own, _)| *own == name).map(|(_, record)| record).collect();
    if kind == 28 && known.iter().any(|record| matches!(record, Record::SilentForAaaa)) {
        return None;
    }
    let data: Vec<Vec<u8>> = known.iter().filter_map(|record| data(record, kind)).collect();
    let fails =
        known.iter().any(|it| matches!((it, kind), (Record::FailsForA, 1) | (Record::FailsForAaaa, 28)));
    let code = if fails {
        2
    } else if known.is_empty() {
        3
    } else {
        0
    };
    let mut out =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0], question].concat();
    for data in data {
        // The name is the question's.
        out.extend_from_slice(&[
            0xc0,
            12,
            query[at + 1],
            query[at + 2],
            0,
            1,
            0,
            0,
            0,
            1,
            0,
            data.len() as u8,
        ]);
        out.extend_from_slice(&data);
    }
    Some(out)
}

fn data(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match (record, kind) {
        (Record::A(ip), 1) => Some(ip.octets().to_vec()),
        (Record::Aaaa(ip), 28) => Some(ip.octets().to_vec()),
        (Record::Srv(priority, weight, port, target), 33) => {
            let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            Some(data)
        }
        _ => None,
    }
}
