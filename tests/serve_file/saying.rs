//! What is said of a file: each mistake at its place, and why a request takes its route.

use super::*;

/// Each mistake is told at its place, with what would be right; all of them at once.
#[test]
fn mistakes_are_told_where_they_stand() {
    let directory = Directory::new();
    let file = directory.file("bad.toml");
    let check = |text: &str, expected: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = ringmill();
        command.args(["check", &file]);
        let (code, _, errors) = run(command);
        assert_eq!(code, Some(1), "{text}");
        let problems = errors.matches("\nerror: ").count();
        let told = if problems == 1 { "1 problem\n".to_owned() } else { format!("{problems} problems\n") };
        assert!(errors.contains(&told) && problems <= expected.len(), "{text}\n{errors}");
        for expected in expected {
            assert!(errors.contains(expected), "{expected:?} is not in\n{errors}");
        }
        let mut command = ringmill();
        command.args(["serve", "--config", &file]);
        let (code, _, same) = run(command);
        assert_eq!((code, same), (Some(1), errors), "{text}");
    };
    const GOOD: &str =
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nto = \"a\"\n[upstream.a]\nservers = [\"1\"]\n";
    let with = |text: &str| format!("{text}\n{GOOD}");
    let behind = |text: &str| format!("{GOOD}\n{text}\n");
    check("a = ", &["bad.toml:1:"]);
    check("", &["there is nothing to listen on", "there is no route"]);
    check(&with("[servr]"), &["the file has no key `servr`\n --> ", "did you mean `server`?"]);
    check(
        &with("[server]\nwoker = 1\nxyz = 2"),
        &["did you mean `workers`?", "known are `connect_timeout`, `drain`"],
    );
    check(&with("[server]\nworkers = 0"), &["0 workers can serve nobody"]);
    check(&with("[server]\nworkers = true"), &["expected a number, or \"auto\""]);
    check(&with("[server]\nmax_connections = 0"), &["connections_max is 0"]);
    check(
        &with("[error_pages]\n404 = \"/nowhere/404.html\"\n200 = \"/x\""),
        &["/nowhere/404.html: ", "\"200\" is no status of an error"],
    );
    check(&with("[access_log]\nto = \"/x\""), &["is neither stdout nor file:PATH"]);
    check(&with("[access_log]\nto = \"stdout\"\nsample = 2"), &["is no part of all"]);
    let no_log = "no access log in /nowhere/a.log: No such file";
    check(&with("[access_log]\nto = \"file:/nowhere/a.log\""), &[no_log]);
    check(&with("[access_log]\nto = \"file:/\""), &["no access log in /: Is a directory"]);
    check(&with("[ids]\nrequest = \"all\""), &["is none of off, upstream and both"]);
    check(
        "[server]\nstats = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\"\n[[route]]\nreply = { status = 200 }\n",
        &["`server.stats` and a listener are both 127.0.0.1:1"],
    );
    check(&with("[limits]\nhead_timeout = \"soon\""), &["expected a duration such as 10, 10s"]);
    check(&with("[limits]\ntrust = [\"10.0.0.1/8\"]"), &["has bits behind its prefix"]);
    check(
        &with("[dns]\nmin_ttl = \"5m\"").replace("\"1\"", "\"dns:a.test:1\""),
        &["`dns.min_ttl`, 5m, is longer than `dns.max_ttl`, 60s\n --> ", "bad.toml:2:11"],
    );
    check(
        &with("[dns]\nmax_ttl = \"500ms\"").replace("\"1\"", "\"dns:a.test:1\""),
        &["`dns.min_ttl`, 1s, is longer than `dns.max_ttl`, 500ms\n --> ", "bad.toml:2:11"],
    );
    check(&with("").replace(":0\"", ":0\"\nredirect_to_https = 0"), &["a nonzero u16"]);
    check(
        &with("[http2]\nstreams = 0\nwindow = \"1KiB\""),
        &["`http2.streams` is 0", "`http2.window` is 1024 bytes", "from 65535 to 2147483647 bytes"],
    );
    check(
        "[server]\npin = \"of\"\n[[listen]]\naddress = \"x\"\n[[route]]\nto = 1\n[upstream.a]\nservers = [\"1\", \"ftp://a\"]\n",
        &[
            "bad CPU list",
            "expected IP:PORT",
            "invalid type: integer `1`, expected a string",
            "unknown scheme \"ftp\"",
        ],
    );
    check(
        &behind("[[listen]]\naddres = \"127.0.0.1:1\""),
        &["did you mean `address`?", "missing field `address`"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\""),
        &["127.0.0.1:1 is listed twice"],
    );
    check(&behind("[[listen]]\naddress = \"127.0.0.1:1\"\ntls = []"), &["there is no certificate"]);
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\ntls_min = 1.3"),
        &["`tls_min` and `client_ca` are for TLS"],
    );
    check(
        &behind(
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = [{ cert = \"/nowhere/c\", key = \"/nowhere/k\" }]",
        ),
        &["/nowhere/c"],
    );
    check(
        &behind("[[listen]]\naddress = \"unix:./x\"\ndeny = \"10.0.0.0/8\""),
        &["peers of a Unix socket have no address"],
    );
    check(
        &behind(
            "[[listen]]\naddress = \"127.0.0.1:1\"\nconnections_per_ip = 0\ndeny = [\"/nowhere/a\", \"/nowhere/b\"]",
        ),
        &["`connections_per_ip` is 0", "cannot read /nowhere/a", "cannot read /nowhere/b"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nrate = { per = \"ip\", limit = \"1/s\" }"),
        &["expected \"client\", \"route\" or \"field:NAME\""],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nrate = { limit = \"1/s\", burst = 0 }"),
        &["`burst` is 0"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nreply = { status = 200 }\nbuffer = \"64KiB\""),
        &["`buffer` is for requests that are given to a server"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\nallow = \"all\""),
        &["a file of them begins with / or ./"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\nnew_connections_per_ip = 100"),
        &["expected a rate such as 100/s"],
    );
    check(&with("[[route]]\nto = \"b\""), &["no upstream is called \"b\"", "did you mean \"a\"?"]);
    check(&with("[[route]]\nmatch = { path = \"/x\" }"), &["route 1 leads nowhere"]);
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nreply = { status = 200 }"),
        &["route 1 leads to several targets"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\", exact = \"/y\" }\nto = \"a\""),
        &["`path` and `exact` exclude each other"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x/../y\" }\nto = \"a\""),
        &["\"/x/../y\" is compared as \"/y\": write that"],
    );
    check(&with("[[route]]\nmatch = { path = \"x\" }\nto = \"a\""), &["\"x\" is no path"]);
    check(&with("[[route]]\nmatch = { host = \"x:80\" }\nto = \"a\""), &["without their ports"]);
    check(&with("[[route]]\nmatch = { method = \"G T\" }\nto = \"a\""), &["\"G T\" is no method"]);
    check(&with("[[route]]\nto = \"a\""), &["route 2 matches the same as route 1"]);
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nreply = { status = 204 }"),
        &["204 is no status for this"],
    );
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nredirect = { to = \"new.test\" }"),
        &["is no address to send clients to"],
    );
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nredirect = { to = \"/y\", status = 200 }"),
        &["200 is no redirect"],
    );
    check(&behind("[upstream.b]\nservers = [\"1\"]\nbalance = \"best\""), &["hash-field:NAME"]);
    check(&behind("[upstream.b]\nservers = [\"1\"]\nhealth = { path = \"up\" }"), &["is no path"]);
    check(&behind("[upstream.b]\nservers = []"), &["upstream \"b\" has no server"]);
    check(
        &behind("[upstream.b]\nservers = [\"1\"]\nretry = { tries = 0 }"),
        &["retry.tries of upstream \"b\" is 0"],
    );
    check(&behind("[upstream.b]\nservers = [\"1\"]\nca = [\"/x\"]"), &["`ca` is for servers that speak TLS"]);
    check(
        &behind("[upstream.b]\nservers = [\"https://127.0.0.1\"]\nca = [\"/nowhere/ca\"]"),
        &["/nowhere/ca"],
    );
    let sticky = |keys: &str| behind(&format!("[upstream.b]\nservers = [\"1\"]\n{keys}"));
    check(&sticky("balance = \"sticky\""), &["its cookie has no secret"]);
    check(&sticky("sticky = { secret = \"env:PATH\" }"), &["is for `balance = \"sticky\"`"]);
    check(&sticky("sticky = { secret = \"0123456789abcdef\" }"), &["expected a secret as \"file:"]);
    check(&sticky("balance = \"sticky\"\nsticky = { secret = \"env:NOBODY_HAS_IT\" }"), &["NOBODY_HAS_IT"]);
    check(&sticky("balance = \"sticky\"\nsticky = { secret = \"file:/dev/null\" }"), &["16 bytes"]);
    check(&behind("[upstream.b]\nservers = [{ address = \"1\", weight = 0 }]"), &["a weight is 0"]);
    check(&behind("[upstream.b]\nservers = [{ address = \"1\", weigth = 2 }]"), &["did you mean `weight`?"]);
    check(&behind("[upstream.b]\nservers = [{ weight = 2 }]"), &["missing field `address`"]);
    check(&behind("[upstream.b]\nservers = [\"dns:a\"]"), &["neither HOST:PORT nor a service"]);
    check(
        &with("[dns]\nmin_ttl = \"2s\""),
        &["no server is a name that is looked up\n --> ", "bad.toml:1:1"],
    );
    check(&with("[dns]\nresolver = \"ns.test\""), &["is no IP:PORT"]);
    check(
        &behind("[upstream.b]\nservers = [\"1\"]\nconnections = { mx = 1 }"),
        &["`upstream.b.connections` has no key `mx`"],
    );
    let tcp = |table: &str, more: &str| {
        behind(&format!("[[listen]]\naddress = \"127.0.0.1:1\"\ntcp = {{ {table} }}\n{more}"))
    };
    check(&tcp("", ""), &["`tcp` leads nowhere"]);
    check(&tcp("to = \"b\"", ""), &["no upstream is called \"b\"", "did you mean \"a\"?"]);
    check(
        &tcp("sni = { \"a:1\" = \"a\", \"b.test\" = \"xyz\" }", "redirect_to_https = 1"),
        &["without their ports", "there is no [upstream.xyz]", "leave out `redirect_to_https` here"],
    );
    check(
        &tcp("sni = { \"b.test\" = \"a\" }", "tls = [{ cert = \"/nowhere/c\", key = \"/nowhere/k\" }]"),
        &["TLS is either opened here", "/nowhere/c"],
    );
    let b = "[upstream.b]\nservers = [\"1\"]\n";
    check(&tcp("to = \"b\"", &format!("{b}proxy_protocol = 3")), &["1 or 2"]);
    check(&behind(&format!("{b}proxy_protocol = 1")), &["no listener of `tcp` goes to this upstream"]);
    check(
        &with(&format!("[[route]]\nmatch = {{ path = \"/x\" }}\nto = \"b\"\n{b}proxy_protocol = 1")),
        &["requests of many clients"],
    );
    check(
        &tcp("to = \"b\"", &format!("{b}balance = \"hash-path\"")),
        &["`balance` asks for requests", "such as \"hash-client\""],
    );
    let (code, output, _) = {
        std::fs::write(&file, GOOD).unwrap();
        let mut command = ringmill();
        command.args(["check", &file]);
        run(command)
    };
    assert_eq!((code, output.contains("is good: 1 listener(s), 1 route(s), 1 upstream(s)")), (Some(0), true));
}

#[test]
fn a_request_is_explained() {
    let directory = Directory::new();
    let file = directory.file("ringmill.toml");
    let text = "[limits]\ntrust = [\"10.0.0.0/8\"]\n[http2]\nstreams = 7\n[[listen]]\naddress = \"127.0.0.1:8080\"\n[[route]]\nto = \"app\"\n\
                [[route]]\nmatch = { host = \"*.test\", path = \"/api\", method = \"POST\" }\nto = \"app\"\nmax_body = \"1KiB\"\nbuffer = 500\n\
                [[route]]\nmatch = { exact = \"/old\" }\nredirect = { to = \"https://new.test\" }\n\
                [upstream.app]\n\
                servers = [\"dns:https://app.test\", { address = \"127.0.0.1:3000\", weight = 2, backup = true }]\n\
                balance = \"sticky\"\nsticky = { secret = \"env:PLACE\" }\n";
    std::fs::write(&file, text).unwrap();
    let check = |arguments: &[&str], expected: &[&str]| {
        let mut command = ringmill();
        command.args(["explain", "--config", &file]).args(arguments).env("PLACE", "sixteen bytes it is");
        let (code, output, errors) = run(command);
        assert_eq!(code, Some(0), "{errors}");
        for line in expected {
            assert!(output.lines().any(|found| found.trim_end() == *line), "{line:?} is not in\n{output}");
        }
    };
    let spoof = ["--field", "X-Forwarded-For: 6.6.6.6", "--field", "Connection: x-a", "--field", "X-A: b"];
    check(
        &[&["POST", "http://A.Test:80/x/../%61pi/?q"][..], &spoof].concat(),
        &[
            "listener  127.0.0.1:8080",
            "route     route 2: host *.test, path /api and below, POST",
            "          route 1: any host, any path: matches too, and comes behind it",
            "upstream  app: dns:app.test:443 (TLS as app.test), 127.0.0.1:3000 weight 2 (backup)",
            "          the one that the cookie ringmill names",
            "limits    1024 bytes of body, of which 500 are taken in first; 500 connections a server, 1000 waiting for 5s",
            "HTTP/2    7 at once, 16384 bytes of fields, 100 taken back a second",
            "request   POST /api/?q HTTP/1.1",
            "          - Host: A.Test:80",
            "          - X-Forwarded-For: 6.6.6.6",
            "          - X-A: b",
            "          + host: a.test",
            "          + x-forwarded-for: 192.0.2.1",
            "          + via: 1.1 ringmill",
        ],
    );
    check(
        &["GET", "http://a.test/api", "--client", "10.1.1.1", "--field", "X-Forwarded-For: 7.7.7.7"],
        &[
            "route     route 1: any host, any path",
            "          route 2: host *.test, path /api and below, POST: not for this method",
            "            x-forwarded-for: 7.7.7.7",
            "          + x-forwarded-for: 10.1.1.1",
        ],
    );
    check(&["GET", "http://a.test/old?x"], &["answer    308, to https://new.test/old?x"]);
    check(&["GET", "https://a.test/"], &["listener  none: no address of the file speaks https"]);
    check(
        &["GET", "http://a.test/x%2f..%2fold"],
        &["answer    400: an escaped slash in the path decides where the request goes"],
    );
    check(
        &["GET", "http://a.test/x y"],
        &[
            "answer    400: The request line must end in HTTP/1.1 or HTTP/1.0 and nothing after it (RFC 9112 section 2.3).",
        ],
    );
}
