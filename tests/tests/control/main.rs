//! The control socket: its answers, and its behaviour towards hostile clients.

mod apply;
mod configurations;
mod file;
mod generated;
mod hostile;
mod metrics;
mod prometheus;
mod rights;
mod silent;
mod status;

use testkit::Config;

const WEB: &str = "10.88.0.10";
const SERVER: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

fn server(config: Config) -> Config {
    config.group("server", SERVER).task("web-1", &[WEB], &["server"])
}
