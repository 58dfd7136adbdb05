//! The options of the small kernel: `kernels/rdvm.config` without its comments, and whether they took effect.

/// One `CONFIG_NAME=VALUE` a line, with reasons.
const FRAGMENT: &str = include_str!("../../../kernels/rdvm.config");

/// Settings below this line are for some releases of Linux only; others do not mention them in their `.config`.
const NOT_IN_EVERY_RELEASE: &str = "\n## Not in every release\n";

/// The settings in the order of the file. No value has a blank in it, so a setting ends at the first.
fn settings() -> impl Iterator<Item = &'static str> {
    settings_of(FRAGMENT)
}

fn settings_of(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split_whitespace().next())
}

/// The settings as kconfig reads them, which takes what follows a number for a part of it.
pub(super) fn plain() -> String {
    settings().map(|setting| format!("{setting}\n")).collect()
}

/// The settings that a finished `.config` does not have. It leaves out what its source does not know, and has a line
/// `# CONFIG_NAME is not set` for what is known and off.
pub(super) fn missing(config: &str) -> Vec<&'static str> {
    let lines: std::collections::HashSet<&str> = config.lines().collect();
    let (always, sometimes) = FRAGMENT
        .split_once(NOT_IN_EVERY_RELEASE)
        .unwrap_or((FRAGMENT, ""));
    let is_off = |setting: &&str| {
        let name = setting.split('=').next().unwrap_or_default();
        lines.contains(format!("# {name} is not set").as_str())
    };
    let always = settings_of(always).filter(|setting| !lines.contains(setting));
    always
        .chain(settings_of(sometimes).filter(is_off))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_a_name_and_a_value_and_stands_there_once() {
        let mut names: Vec<_> = settings()
            .map(|setting| setting.split_once('=').expect(setting))
            .collect();
        assert!(names.len() > 50, "{names:?}");
        for (name, value) in &names {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            assert!(name.bytes().all(is_word), "{name}");
            let quoted = value.len() > 2 && value.starts_with('"') && value.ends_with('"');
            assert!(
                quoted || *value == "y" || value.parse::<u32>().is_ok(),
                "{name}={value}"
            );
        }
        names.sort();
        names.dedup_by_key(|(name, _)| *name);
        assert_eq!(names.len(), settings().count());
    }

    #[test]
    fn each_setting_that_did_not_take_effect_is_named() {
        assert_eq!(missing(&plain()), [""; 0]);
        let config = plain()
            .replace("CONFIG_PVH=y\n", "# CONFIG_PVH is not set\n")
            .replace("CONFIG_NR_CPUS=16\n", "CONFIG_NR_CPUS=160\n");
        assert_eq!(missing(&config), ["CONFIG_PVH=y", "CONFIG_NR_CPUS=16"]);
    }

    #[test]
    fn a_setting_of_some_releases_may_be_unknown_but_not_off() {
        assert!(FRAGMENT.contains(NOT_IN_EVERY_RELEASE));
        let unknown = plain().replace("CONFIG_BASE_FULL=y\n", "");
        assert_eq!(missing(&unknown), [""; 0]);
        let off = format!("{unknown}# CONFIG_BASE_FULL is not set\n");
        assert_eq!(missing(&off), ["CONFIG_BASE_FULL=y"]);
    }
}
