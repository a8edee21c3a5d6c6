//! The records of killed processes and of their successors add up to one account.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use testkit::{
    E2eTest, at,
    ledger::Action,
    traffic::{Bulk, Client, TcpEcho, UdpPeer},
};

use crate::{Talk, WEB, check_gate, server};

/// The time of the kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Once a window is written, before anything else happens.
    AfterWindow,
    /// This many milliseconds later.
    Later(u64),
    /// With packets in flight.
    UnderTraffic(u64),
    /// Not killed, but stopped in order.
    InOrder,
}

#[test]
fn no_packet_is_missing_or_counted_twice() -> Result<()> {
    for moment in [
        Moment::AfterWindow,
        Moment::Later(150),
        Moment::Later(500),
        Moment::Later(990),
        Moment::UnderTraffic(0),
        Moment::UnderTraffic(300),
        Moment::UnderTraffic(1010),
        Moment::InOrder,
    ] {
        let mut test = E2eTest::start(server)?;
        let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
        let talk = Talk::begin(&test)?;
        let denied = UdpPeer::bind(test.task("web-1")?, &format!("{WEB}:54"))?;
        let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
        for _ in 0..2 {
            let bulk = matches!(moment, Moment::UnderTraffic(_))
                .then(|| Bulk::start(&test.topology.outside, test.task("web-1")?, at(WEB, 8000)))
                .transpose()?;
            live.echo(1000)?;
            let flow = talk.go_on()?;
            // Inwards and outwards.
            talk.client.send(denied.address(), b"no")?;
            check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
            test.daemon
                .await_ledger(|ledger| ledger.get("web-1", flow, Action::Accept).packets != 0)?;
            match moment {
                Moment::AfterWindow | Moment::InOrder => {}
                Moment::Later(after) | Moment::UnderTraffic(after) => {
                    live.echo(1000)?;
                    thread::sleep(Duration::from_millis(after));
                }
            }
            match moment {
                Moment::InOrder => test.leave()?,
                _ => test.kill()?,
            }
            live.echo(1000)?;
            talk.go_on()?;
            talk.client.send(denied.address(), b"no")?;
            check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
            test.restart(|config| config)?;
            talk.go_on()?;
            if let Some(bulk) = bulk {
                bulk.finish()?;
            }
        }
        live.finish()?;
        let expected = test.denied_at("web-1")?;
        test.finish(&expected).with_context(|| format!("killed {moment:?}"))?;
    }
    Ok(())
}
