//! taskgate is killed in the middle: its gates go on without it, and the next run records the packets that they passed
//! and denied meanwhile.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    thread,
};

use anyhow::{Context as _, Result};
use testkit::{
    ledger::{Action, Flow, Ledger},
    record::Record,
    traffic::Client,
    wire::Wire,
};

use super::hosts::Hosts;

/// A connection from web to db that is open all the time.
pub(super) struct Kept {
    client: Client,
    wire: Wire,
    eni: String,
    answered: usize,
}

/// The connection, closed in order.
pub(super) struct Closed {
    flow: Flow,
    wire: Wire,
    eni: String,
    /// Requests that were answered, which are all.
    pub(super) answered: usize,
}

impl Kept {
    const PORT: u16 = 5432;

    /// Opens the connection. No other server may listen on its port yet.
    pub(super) fn open(hosts: &Hosts) -> Result<Self> {
        let (web, db) = (hosts.get("web")?, hosts.get("db")?);
        let wire = Wire::tap(&web.netns, "eth0")?;
        let listener = db
            .netns
            .bind(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, Self::PORT)))?;
        let client = Client::connect(&web.netns, SocketAddr::new(db.addresses[0], Self::PORT))?;
        let (server, _) = listener.accept()?;
        thread::spawn(move || io::copy(&mut &server, &mut &server));
        Ok(Self {
            client,
            wire,
            eni: web.eni.clone().context("web has no ENI")?,
            answered: 0,
        })
    }

    /// Sends ten requests, and fails unless each is answered.
    pub(super) fn ask(&mut self) -> Result<()> {
        const TIMES: usize = 10;
        for _ in 0..TIMES {
            self.client.echo(100).context("the connection from web to db was cut")?;
        }
        self.answered += TIMES;
        Ok(())
    }

    /// Closes the connection, so that no acknowledgement is still to come.
    pub(super) fn close(self) -> Result<Closed> {
        let flow = self.client.flow();
        self.client.finish()?;
        Ok(Closed {
            flow,
            wire: self.wire,
            eni: self.eni,
            answered: self.answered,
        })
    }
}

impl Closed {
    /// The packets in records of both directions at web's gate, and those counted on its interface.
    pub(super) fn sum(self, records: &[Record]) -> Result<[[u64; 2]; 2]> {
        let at_web: Vec<Record> = records
            .iter()
            .filter(|record| record.eni == self.eni)
            .cloned()
            .collect();
        let ledger = Ledger::of_records(&at_web, &BTreeMap::from([(self.eni, String::from("web"))]))?;
        let (there, back) = (self.flow, self.flow.back());
        let recorded = [there, back].map(|flow| ledger.get("web", flow, Action::Accept).packets);
        let crossed = [self.wire.sent(there)?, self.wire.received(back)?].map(|count| count.packets);
        Ok([recorded, crossed])
    }
}
