//! `http_proxy`, `https_proxy` and `no_proxy`, as Go's programs and curl read them.

use ureq::Proxy;

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::url::Url;

/// Returns the proxy for a URL, if there is to be one. Addresses of this host never have one.
///
/// # Errors
/// It is no URL of an HTTP proxy.
pub(crate) fn of(environment: &Environment, url: &Url) -> Result<Option<Proxy>> {
    // Upper case only for HTTPS: a CGI program's HTTP_PROXY is a header of its client's.
    let names: &[&str] = match url.is_https() {
        true => &["https_proxy", "HTTPS_PROXY"],
        false => &["http_proxy"],
    };
    let Some((variable, value)) = environment.first(names) else {
        return Ok(None);
    };
    let exceptions = environment.first(&["no_proxy", "NO_PROXY"]);
    if url.is_loopback() || exceptions.is_some_and(|(_, list)| has(list, url)) {
        return Ok(None);
    }
    let wrong = || Error::Proxy {
        variable: variable.to_owned(),
        // It may have a password.
        value: value.rsplit('@').next().unwrap_or_default().to_owned(),
    };
    let proxy = Proxy::new(value).map_err(|_| wrong())?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(Some(proxy)),
        _ => Err(wrong()),
    }
}

/// True if a list of hosts and domains, with or without ports, has the URL's host.
fn has(list: &str, url: &Url) -> bool {
    let (host, port) = url.host_and_port();
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let (name, entry_port) = match entry.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (name, port.parse().ok())
                }
                _ => (entry, None),
            };
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let is_below = || {
                host.strip_suffix(name)
                    .is_some_and(|above| above.ends_with('.'))
            };
            entry_port.is_none_or(|wanted: u16| wanted == port)
                && (entry == "*"
                    || (!name.is_empty() && (host.eq_ignore_ascii_case(name) || is_below())))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(variables: &[(&'static str, &str)], url: &str) -> Result<Option<String>> {
        let mut environment = Environment::of_test("/".as_ref());
        for (name, value) in variables {
            environment.set(name, value);
        }
        let proxy = of(&environment, &url.parse().unwrap())?;
        Ok(proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn the_scheme_chooses_the_proxy_and_exceptions_have_none() {
        let set = [
            ("http_proxy", "http://p:1"),
            ("HTTPS_PROXY", "http://user:pw@s:2"),
            (
                "no_proxy",
                "a.example, .b.example,c.example:5000,*.d.example",
            ),
        ];
        for (url, expected) in [
            ("http://x.example/", Some("p:1")),
            ("https://x.example/", Some("s:2")),
            ("https://a.example/", None),
            ("https://sub.a.example/", None),
            ("https://xa.example/", Some("s:2")),
            ("https://x.b.example/", None),
            ("https://x.d.example/", None),
            ("https://c.example:5000/", None),
            ("https://c.example/", Some("s:2")),
            ("http://127.0.0.1:5000/", None),
            ("https://localhost/", None),
        ] {
            assert_eq!(proxied(&set, url).unwrap().as_deref(), expected, "{url}");
        }
        assert_eq!(
            proxied(
                &[("https_proxy", "http://p:1"), ("NO_PROXY", "*")],
                "https://x/"
            )
            .unwrap(),
            None
        );
        assert_eq!(
            proxied(&[("HTTP_PROXY", "http://p:1")], "http://x/").unwrap(),
            None
        );
    }

    #[test]
    fn a_wrong_proxy_is_an_error_that_keeps_the_password() {
        let error = proxied(&[("https_proxy", "socks5://u:secret@p:1")], "https://x/").unwrap_err();
        assert_eq!(
            error.to_string(),
            "https_proxy: \"p:1\" is not the URL of a proxy; write http://HOST:PORT"
        );
    }
}
