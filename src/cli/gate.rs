//! Options of `ringmill serve` and `ringmill proxy` for who may come in.

use crate::config::{Listed, list};
use clap::Args;
use ringmill::{Error, Gate, GateRules, Rate};

#[derive(Args)]
#[command(next_help_heading = "Who may come in")]
pub(super) struct GateOptions {
    /// Let in only clients from these networks, as 10.0.0.0/8, an address, or a file with one on each line (/PATH or ./PATH); repeat for
    /// several
    #[arg(long, value_name = "CIDR|FILE", env = "RINGMILL_ALLOW", value_delimiter = ',')]
    allow: Vec<Listed>,

    /// Let in nobody from these
    #[arg(long, value_name = "CIDR|FILE", env = "RINGMILL_DENY", value_delimiter = ',')]
    deny: Vec<Listed>,

    /// Connections of one address at a time, over all workers; of IPv6 a /64 is one address [default: no limit]
    #[arg(long, value_name = "N", env = "RINGMILL_CONNECTIONS_PER_IP", value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_ip: Option<u32>,

    /// Connections of one network at a time, which is a /24 of IPv4 and a /48 of IPv6 [default: no limit]
    #[arg(long, value_name = "N", env = "RINGMILL_CONNECTIONS_PER_PREFIX", value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_prefix: Option<u32>,

    /// New connections of one address, as 50/s or 600/m, of which as many may come at once [default: no limit]
    #[arg(long, value_name = "RATE", env = "RINGMILL_NEW_CONNECTIONS_PER_IP")]
    new_connections_per_ip: Option<Rate>,
}

impl GateOptions {
    /// The gate, if anything is asked.
    pub(super) fn gate(&self) -> Result<Option<Gate>, Error> {
        let (deny, allow) = match (list(&self.deny), list(&self.allow)) {
            (Ok(deny), Ok(allow)) => (deny, allow),
            (deny, allow) => {
                let problems = [deny.err(), allow.err()].into_iter().flatten().flatten().collect();
                return Err(Error::Config { problems });
            }
        };
        let rules = GateRules {
            deny,
            allow,
            connections_per_ip: self.connections_per_ip,
            connections_per_prefix: self.connections_per_prefix,
            new_connections_per_ip: self.new_connections_per_ip,
        };
        Ok((!rules.is_open()).then(|| Gate::new(rules)))
    }
}
