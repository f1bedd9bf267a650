//! The simulator with the fuzzer's bytes as its random source: workers, clients and faults do what they say, and every rule
//! of the simulator must hold.
#![no_main]

// The scenarios of the tests, as they are.
#[path = "../../protocols/tests/simulator/client.rs"]
mod client;
#[path = "../../protocols/tests/simulator/framed.rs"]
mod framed;
#[path = "../../protocols/tests/simulator/lane.rs"]
mod lane;
#[path = "../../protocols/tests/simulator/layers.rs"]
mod layers;
#[allow(dead_code, reason = "over TLS a run is more than its input")]
#[path = "../../protocols/tests/simulator/scenario.rs"]
mod scenario;
#[path = "../../protocols/tests/simulator/script.rs"]
mod script;
#[path = "../../protocols/tests/simulator/site.rs"]
mod site;
#[allow(dead_code, reason = "of the soak only its silence is wanted")]
#[path = "../../protocols/tests/simulator/soak.rs"]
mod soak;
#[path = "../../protocols/tests/simulator/sockets.rs"]
mod sockets;

#[allow(dead_code, reason = "see `scenario`")]
#[path = "../../protocols/tests/simulator/voice.rs"]
mod voice;

use libfuzzer_sys::fuzz_target;
use ringmill_engine::driver::sim::draw_from;

fuzz_target!(|data: &[u8]| {
    // libFuzzer takes any panic for a failure; those of handlers are part of the scenario.
    soak::silence_what_is_on_purpose();
    draw_from(data);
    scenario::run(0);
    draw_from(&[]);
});
