use super::*;
use crate::stats::Stats;

/// Asks for addresses in turn, and keeps their passes.
struct Asking {
    gate: Gate,
    stats: Stats,
    now: Tick,
    passes: Vec<(IpAddr, Option<Pass>)>,
}

impl Asking {
    fn new(rules: GateRules) -> Asking {
        Asking { gate: Gate::new(rules), stats: Stats::new(1), now: Tick(1), passes: Vec::new() }
    }

    #[track_caller]
    fn check(&mut self, ip: &str, expected: Result<(), Barred>) {
        let ip = ip.parse().unwrap();
        let asked = self.gate.ask(ip, self.now, &self.stats.worker(0));
        assert_eq!(asked.as_ref().map(|_| ()).map_err(|barred| *barred), expected, "{ip}");
        self.passes.extend(asked.ok().map(|pass| (ip, pass)));
    }

    fn leave(&mut self, ip: &str) {
        let ip: IpAddr = ip.parse().unwrap();
        let at = self.passes.iter().position(|(inside, _)| *inside == ip).expect("it is inside");
        self.passes.swap_remove(at);
    }
}

fn networks(text: &str) -> Option<Arc<Networks>> {
    Some(Arc::new(Networks::new(text.split(' ').map(|network| network.parse().unwrap()))))
}

#[test]
fn lists_and_limits_decide() {
    let mut open = Asking::new(GateRules::default());
    open.check("1.2.3.4", Ok(()));
    assert!(open.gate.rules().is_open());

    let (allow, deny) = (networks("10.0.0.0/8 2001:db8::/32"), networks("10.6.0.0/16 192.0.2.0/24"));
    let mut listed = Asking::new(GateRules { allow, deny, ..GateRules::default() });
    listed.check("10.1.2.3", Ok(()));
    listed.check("::ffff:10.1.2.3", Ok(()));
    listed.check("10.6.0.1", Err(Barred::Denied));
    listed.check("::ffff:10.6.0.1", Err(Barred::Denied));
    listed.check("192.0.2.1", Err(Barred::Denied));
    listed.check("192.0.3.1", Err(Barred::Unlisted));
    listed.check("2001:db8::1", Ok(()));
    listed.check("::1", Err(Barred::Unlisted));

    let rules =
        GateRules { connections_per_ip: Some(2), connections_per_prefix: Some(3), ..GateRules::default() };
    let mut counted = Asking::new(rules);
    counted.check("192.0.2.1", Ok(()));
    counted.check("::ffff:192.0.2.1", Ok(()));
    counted.check("192.0.2.1", Err(Barred::PerIp));
    counted.check("192.0.2.2", Ok(()));
    counted.check("192.0.2.2", Err(Barred::PerPrefix));
    counted.check("192.0.2.3", Err(Barred::PerPrefix));
    counted.check("192.0.3.3", Ok(()));
    counted.leave("192.0.2.1");
    counted.check("192.0.2.3", Ok(()));
    // What was refused for the network around was not kept for the address.
    counted.leave("192.0.2.2");
    counted.check("192.0.2.2", Ok(()));
    // Of IPv6 a /64 is one address.
    for ip in ["2001:db8::1", "2001:db8::2"] {
        counted.check(ip, Ok(()));
    }
    counted.check("2001:db8::ffff:0:0:3", Err(Barred::PerIp));
    counted.check("2001:db8:0:1::1", Ok(()));
    counted.check("2001:db8:0:2::1", Err(Barred::PerPrefix));
    counted.check("2001:db8:1::1", Ok(()));
    counted.passes.clear();
    counted.check("192.0.2.1", Ok(()));

    let rate = "2/s".parse().ok();
    let mut fast = Asking::new(GateRules { new_connections_per_ip: rate, ..GateRules::default() });
    fast.check("192.0.2.1", Ok(()));
    fast.check("192.0.2.1", Ok(()));
    fast.check("192.0.2.1", Err(Barred::TooFast));
    fast.check("192.0.2.2", Ok(()));
    fast.passes.clear();
    fast.check("192.0.2.1", Err(Barred::TooFast));
    fast.now = fast.now.after(Duration::from_millis(500));
    fast.check("192.0.2.1", Ok(()));
    fast.check("192.0.2.1", Err(Barred::TooFast));
    let counted = fast.stats.total();
    assert_eq!((counted.gate_too_fast, counted.gate_per_ip, counted.gate_denied), (3, 0, 0));
}

#[test]
fn other_rules_forget_nobody() {
    let rules = GateRules { connections_per_ip: Some(2), ..GateRules::default() };
    let mut asking = Asking::new(rules.clone());
    asking.check("192.0.2.1", Ok(()));
    asking.gate = asking.gate.with_rules(GateRules { deny: networks("10.0.0.0/8"), ..rules.clone() });
    asking.check("10.0.0.1", Err(Barred::Denied));
    asking.check("192.0.2.1", Ok(()));
    asking.check("192.0.2.1", Err(Barred::PerIp));
    asking.gate = asking.gate.with_rules(GateRules::default());
    asking.check("192.0.2.1", Ok(()));
    asking.gate = asking.gate.with_rules(rules);
    asking.check("192.0.2.1", Err(Barred::PerIp));
    // The two that were counted; the one that came while nobody was is not.
    asking.leave("192.0.2.1");
    asking.check("192.0.2.1", Ok(()));
    asking.passes.clear();
    asking.check("192.0.2.1", Ok(()));
}

/// However many are turned away, the log has one of them in ten seconds.
#[test]
fn the_log_is_not_flooded() {
    let asking = Asking::new(GateRules { deny: networks("0.0.0.0/0"), ..GateRules::default() });
    let (gate, stats) = (&asking.gate, asking.stats.worker(0));
    let mut changes = 0;
    for milli in 0..25_000 {
        let before = gate.0.quiet_until.load(Relaxed);
        let now = Tick(1).after(Duration::from_millis(milli));
        assert!(gate.ask([10, 0, 0, 1].into(), now, &stats).is_err());
        changes += u32::from(gate.0.quiet_until.load(Relaxed) != before);
    }
    assert_eq!((changes, asking.stats.total().gate_denied), (3, 25_000));
}
