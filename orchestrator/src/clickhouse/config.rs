//! The configuration of a private server, in words that every version from 18.16 on knows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::private::{PrivateClickHouse, USER};

/// Writes the configuration; where it is.
pub(super) fn write(server: &PrivateClickHouse, port: u16) -> io::Result<PathBuf> {
    let (config, users) = (server.folder.join("config.xml"), server.folder.join("users.xml"));
    fs::write(&users, users_xml(&server.password))?;
    fs::write(&config, config_xml(server, port, &users))?;
    Ok(config)
}

fn config_xml(server: &PrivateClickHouse, port: u16, users: &Path) -> String {
    let folder = |name: &str| escape(&server.folder.join(name));
    let (log, errors) = (escape(&server.log()), folder("errors"));
    let (data, tmp, files) = (folder("data"), folder("tmp"), folder("files"));
    let users = escape(users);
    // The oldest versions want this root, the newest still take it.
    format!(
        "<yandex>
  <logger><level>information</level><log>{log}</log><errorlog>{errors}</errorlog><size>10M</size><count>1</count></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{data}/</path>
  <tmp_path>{tmp}/</tmp_path>
  <user_files_path>{files}/</user_files_path>
  <format_schema_path>{files}/</format_schema_path>
  <users_config>{users}</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <keep_alive_timeout>30</keep_alive_timeout>
  <mark_cache_size>268435456</mark_cache_size>
</yandex>
"
    )
}

fn users_xml(password: &str) -> String {
    format!(
        "<yandex>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <{USER}>
      <password>{password}</password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </{USER}>
  </users>
</yandex>
"
    )
}

fn escape(path: &Path) -> String {
    path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
