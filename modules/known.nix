# What tsstack knows by name, for the warnings alone: the well-known services, and what the presets of zones open. A test
# holds both against tsstack's own tables.
{
  services = {
    ssh = [ "tcp/22" ];
    dns = [ "tcp/53" "udp/53" ];
    dns-over-tls = [ "tcp/853" ];
    dhcp = [ "udp/67" ];
    dhcpv6 = [ "udp/547" ];
    http = [ "tcp/80" ];
    https = [ "tcp/443" ];
    http3 = [ "udp/443" ];
    ntp = [ "udp/123" ];
    mdns = [ "udp/5353" ];
    smtp = [ "tcp/25" ];
    submission = [ "tcp/587" ];
    submissions = [ "tcp/465" ];
    imap = [ "tcp/143" ];
    imaps = [ "tcp/993" ];
    ldap = [ "tcp/389" ];
    ldaps = [ "tcp/636" ];
    nfs = [ "tcp/2049" ];
    samba = [ "tcp/139" "tcp/445" ];
    rsync = [ "tcp/873" ];
    mqtt = [ "tcp/1883" ];
    mqtts = [ "tcp/8883" ];
    mysql = [ "tcp/3306" ];
    postgresql = [ "tcp/5432" ];
    redis = [ "tcp/6379" ];
    mongodb = [ "tcp/27017" ];
    syslog = [ "udp/514" ];
    snmp = [ "udp/161" ];
    prometheus = [ "tcp/9090" ];
    node-exporter = [ "tcp/9100" ];
    grafana = [ "tcp/3000" ];
    iperf3 = [ "tcp/5201" "udp/5201" ];
    wireguard = [ "udp/51820" ];
    tailscale = [ "udp/41641" ];
    stun = [ "udp/3478" ];
    rdp = [ "tcp/3389" ];
    vnc = [ "tcp/5900" ];
    kubernetes-api = [ "tcp/6443" ];
    jellyfin = [ "tcp/8096" ];
    plex = [ "tcp/32400" ];
    home-assistant = [ "tcp/8123" ];
    minecraft = [ "tcp/25565" ];
  };
  presets = {
    dmz = { tcp = [ 80 443 ]; udp = [ 443 ]; };
    internal = { tcp = [ 80 443 ]; udp = [ 443 ]; services = [ "ssh" ]; };
    admin = { allow = "all"; };
    isolated = { ping = false; log = true; };
  };
}
