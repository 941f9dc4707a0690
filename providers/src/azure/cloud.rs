//! Which of Azure's clouds: where tokens are got, for what, and where the vault is.

use lockstep_crds::store::azurekv::{AzureEnvironment, AzureProvider};
use reqwest::Url;

use super::FIELD;
use crate::http;
use crate::registry::Options;
use crate::{Error, Result};

/// Where things are.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    /// The vault.
    pub(super) vault: Url,
    /// Where tokens are got, such as `https://login.microsoftonline.com/`.
    pub(super) authority: Url,
    /// What tokens are for, such as `https://vault.azure.net/.default`.
    pub(super) scope: String,
}

impl Cloud {
    pub(super) fn of(spec: &AzureProvider, options: &Options) -> Result<Self> {
        let field = format!("{FIELD}.vaultUrl");
        let vault = https(&field, &spec.vault_url, "https://my-vault.vault.azure.net", options)?;
        if vault.path() != "/" {
            return Err(Error::invalid(field, "has a path; write for example https://my-vault.vault.azure.net"));
        }
        // Hosts of tokens and ends of vaults' names: azure/environments.go of Microsoft's Go SDK has the same.
        let (authority, suffixes) = match spec.environment_type {
            AzureEnvironment::PublicCloud => ("https://login.microsoftonline.com", ["vault.azure.net", "managedhsm.azure.net"]),
            AzureEnvironment::USGovernmentCloud => {
                ("https://login.microsoftonline.us", ["vault.usgovcloudapi.net", "managedhsm.usgovcloudapi.net"])
            }
            AzureEnvironment::ChinaCloud => ("https://login.chinacloudapi.cn", ["vault.azure.cn", "managedhsm.azure.cn"]),
            AzureEnvironment::GermanCloud => {
                return Err(Error::Unsupported(format!(
                    "{FIELD}.environmentType: GermanCloud was closed in 2021; use PublicCloud"
                )));
            }
            AzureEnvironment::AzureStackCloud => ("", ["", ""]),
        };
        let custom = spec.custom_cloud_config.as_ref();
        let authority = match custom.map(|c| c.active_directory_endpoint.as_str()) {
            Some(endpoint) => {
                let field = format!("{FIELD}.customCloudConfig.activeDirectoryEndpoint");
                let url = https(&field, endpoint, "https://login.microsoftonline.com", options)?;
                if url.path().trim_matches('/').eq_ignore_ascii_case("adfs") {
                    return Err(Error::Unsupported(format!("{field}: AD FS is not served; Entra ID is")));
                }
                url
            }
            None if authority.is_empty() => {
                let why = "is not set, and environmentType AzureStackCloud needs it: name its activeDirectoryEndpoint";
                return Err(Error::invalid(format!("{FIELD}.customCloudConfig"), why));
            }
            None => Url::parse(authority).map_err(|_| Error::invalid(FIELD, "has no authority"))?,
        };
        let host = vault.host_str().unwrap_or_default().to_owned();
        let named = custom.and_then(|c| c.key_vault_endpoint.clone()).filter(|e| !e.is_empty());
        let resource = match (named, suffixes.iter().find(|s| !s.is_empty() && host.ends_with(&format!(".{s}")))) {
            (Some(endpoint), _) => {
                let field = format!("{FIELD}.customCloudConfig.keyVaultEndpoint");
                https(&field, &endpoint, "https://vault.local.azurestack.external", options)?
                    .as_str()
                    .trim_end_matches('/')
                    .to_owned()
            }
            (None, Some(suffix)) => format!("https://{suffix}"),
            (None, None) if custom.is_some() => {
                let rest = host.split_once('.').map(|(_, rest)| rest).unwrap_or(&host);
                format!("https://{rest}")
            }
            (None, None) => {
                let why = format!("is no vault of {:?}, whose names end in .{}", spec.environment_type, suffixes[0]);
                return Err(Error::invalid(field, why));
            }
        };
        Ok(Self { vault, authority, scope: format!("{resource}/.default") })
    }
}

impl Cloud {
    /// The same for the operator's own identity: its token goes where the operator's environment says, else where Microsoft
    /// gives tokens, and nowhere that a store names.
    pub(super) fn for_own(self, spec: &AzureProvider, options: &Options) -> Result<Self> {
        let known = [
            "login.microsoftonline.com",
            "login.microsoftonline.us",
            "login.chinacloudapi.cn",
            "login.partner.microsoftonline.cn",
        ];
        let authority = match options.endpoints.get("azure/authority") {
            Some(own) => Url::parse(&own).map_err(|_| Error::invalid(FIELD, "AZURE_AUTHORITY_HOST of the operator is no URL"))?,
            None => self.authority.clone(),
        };
        let named = spec.custom_cloud_config.is_some() && self.authority.host_str() != authority.host_str();
        let own = options.endpoints.get("azure/authority").is_some();
        if named || !(own || authority.host_str().is_some_and(|host| known.contains(&host))) {
            let why = "is another host than the operator's own identity is of, and gets no token of it";
            return Err(Error::invalid(format!("{FIELD}.customCloudConfig.activeDirectoryEndpoint"), why));
        }
        Ok(Self { authority, ..self })
    }
}

/// A URL that tokens or secrets may be sent to.
fn https(field: &str, text: &str, example: &str, options: &Options) -> Result<Url> {
    let url = http::base_url(field, text, options)?;
    if url.scheme() == "https" {
        Ok(url)
    } else {
        Err(Error::invalid(field, format!("must be https; write for example {example}")))
    }
}

#[cfg(test)]
mod tests {
    use lockstep_crds::store::azurekv::AzureCustomCloud;

    use super::*;

    fn of(url: &str, environment: AzureEnvironment, custom: Option<AzureCustomCloud>) -> Result<Cloud> {
        let spec = AzureProvider {
            vault_url: url.into(),
            environment_type: environment,
            custom_cloud_config: custom,
            ..AzureProvider::default()
        };
        Cloud::of(&spec, &Options::default())
    }

    #[test]
    fn a_cloud_says_where_tokens_are_got_and_what_they_are_for() {
        let public = of("https://app.vault.azure.net", AzureEnvironment::PublicCloud, None).unwrap();
        assert_eq!(public.authority.as_str(), "https://login.microsoftonline.com/");
        assert_eq!(public.scope, "https://vault.azure.net/.default");
        let hsm = of("https://app.managedhsm.azure.net/", AzureEnvironment::PublicCloud, None).unwrap();
        assert_eq!(hsm.scope, "https://managedhsm.azure.net/.default");
        let government = of("https://app.vault.usgovcloudapi.net", AzureEnvironment::USGovernmentCloud, None).unwrap();
        assert_eq!(government.authority.as_str(), "https://login.microsoftonline.us/");
        let stack =
            AzureCustomCloud { active_directory_endpoint: "https://login.stack.example".into(), ..AzureCustomCloud::default() };
        let stack = of("https://app.vault.stack.example", AzureEnvironment::AzureStackCloud, Some(stack)).unwrap();
        assert_eq!(stack.authority.as_str(), "https://login.stack.example/");
        assert_eq!(stack.scope, "https://vault.stack.example/.default");
    }

    #[test]
    fn the_operators_own_token_goes_nowhere_that_a_store_names() {
        let named = |host: &str| {
            let custom = AzureCustomCloud { active_directory_endpoint: format!("https://{host}"), ..AzureCustomCloud::default() };
            AzureProvider {
                vault_url: "https://app.vault.azure.net".into(),
                custom_cloud_config: Some(custom),
                ..AzureProvider::default()
            }
        };
        let options = Options::default();
        let own = |spec: &AzureProvider| Cloud::of(spec, &options).unwrap().for_own(spec, &options);
        assert!(own(&named("evil.example")).is_err());
        assert!(own(&named("login.partner.microsoftonline.cn")).is_ok());
        let plain = AzureProvider { vault_url: "https://app.vault.azure.net".into(), ..AzureProvider::default() };
        assert_eq!(own(&plain).unwrap().authority.as_str(), "https://login.microsoftonline.com/");
    }

    #[test]
    fn a_vault_of_another_cloud_gets_no_token() {
        for (url, environment) in [
            ("https://app.vault.azure.net.evil.example", AzureEnvironment::PublicCloud),
            ("https://evilvault.azure.net", AzureEnvironment::PublicCloud),
            ("https://app.vault.azure.cn", AzureEnvironment::PublicCloud),
            ("http://app.vault.azure.net", AzureEnvironment::PublicCloud),
            ("https://app.vault.azure.net/x", AzureEnvironment::PublicCloud),
            ("https://a:b@app.vault.azure.net", AzureEnvironment::PublicCloud),
            ("https://app.vault.azure.net", AzureEnvironment::AzureStackCloud),
            ("https://app.vault.microsoftazure.de", AzureEnvironment::GermanCloud),
        ] {
            assert!(of(url, environment, None).is_err(), "{url}");
        }
    }
}
