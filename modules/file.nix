# What the options mean in tsstack.yaml: one value, which tsstack.nix writes as JSON. Nothing is rendered here.
{ lib, config }:
let
  inherit (builtins) isBool isInt mapAttrs toJSON toString;
  inherit (lib) filterAttrs optionalAttrs;

  network = config.kernelcore.network;
  own = config.kernelcore.tsstack;
  vpn = network.vpn.tailscale;
  proxy = network.proxy.nginx-tailscale;
  zones = network.security.firewall-zones;
  monitor = network.monitoring.tailscale;
  inherit (network) tuning bandwidth;
  secrets = config.kernelcore.secrets.tailscale;

  # What the proxy serves beside the ports of the preset; a list of the file's takes the preset's place.
  served = if proxy.enable then (import ./listens.nix { inherit lib config; }).ports else [ ];
  ofProxy = if builtins.all (port: builtins.elem port preset.tcp) served then null else lib.unique (preset.tcp ++ served);
  preset = (import ./known.nix).presets.internal;

  # An option that is not set is a key that is not written.
  written = filterAttrs (_: value: value != null && value != { });
  # Nor is a value that is the file's default: it would read as a wish, and be remarked on as one.
  besides = defaults: filterAttrs (name: value: !(defaults ? ${name} && defaults.${name} == value));
  orNull = condition: value: if condition then value else null;
  withUnit = unit: value: if isInt value then "${toString value}${unit}" else value;

  takesKey = vpn.useAuthKeyFile && vpn.authKeyFile == null && secrets.enable;
  fromTsstack = vpn.enable && takesKey && secrets.backend == "tsstack";
  authKey =
    if !vpn.useAuthKeyFile then null
    else if vpn.authKeyFile != null then { file = toString vpn.authKeyFile; }
    else if !secrets.enable then null
    else if secrets.backend == "sops-nix" then { file = config.sops.secrets."tailscale-authkey".path or "/run/secrets/tailscale-authkey"; }
    else { secret = secrets.key; };

  tailscale = written {
    login_server = vpn.loginServer;
    auth_key = authKey;
    inherit (vpn) tags ssh netfilter operator;
    accept_dns = vpn.acceptDNS;
    accept_routes = vpn.acceptRoutes;
    shields_up = vpn.shieldsUp;
    advertise = {
      routes = if vpn.enableSubnetRouter then vpn.advertiseRoutes else [ ];
      exit_node = vpn.exitNode;
      snat = vpn.snatSubnetRoutes;
    };
    exit_node = orNull (vpn.useExitNodes != [ ]) {
      use = vpn.useExitNodes;
      allow_lan_access = vpn.exitNodeAllowLANAccess;
      otherwise = vpn.exitNodeFallback;
    };
  };

  allowed = each:
    if each.allow != [ ] then each.allow
    else if each.enableAuth then proxy.allowedUsers
    else null;
  service = each: besides
    {
      protocol = "http";
      websockets = true;
      buffering = true;
      enabled = true;
      connect_timeout = "5s";
      read_timeout = "1m";
      verify_upstream = false;
    }
    (written {
    upstream = if each.upstream != [ ] then each.upstream else each.upstreamPort;
    inherit (each) protocol subdomain path port websockets buffering;
    enabled = each.enable;
    rate_limit = each.rateLimit;
    rate_burst = each.rateBurst;
    max_body_size = each.maxBodySize;
    connect_timeout = each.connectTimeout;
    read_timeout = each.readTimeout;
    allow = allowed each;
    verify_upstream = each.verifyUpstream;
  });
  isGiven = each: each.upstream != [ ] || each.upstreamPort != null;

  proxySection = besides { names = "subdomain"; tls = "tailscale"; } (written {
    inherit (proxy) names listen status;
    tls =
      if proxy.certificate != null && proxy.certificateKey != null
      then { certificate = toString proxy.certificate; key = toString proxy.certificateKey; }
      else proxy.tls;
    http3 = proxy.enableHTTP3;
    http_port = proxy.httpPort;
    https_port = proxy.httpsPort;
    keepalive = if proxy.enableConnectionPooling then proxy.poolSize else 0;
    worker_connections = proxy.workerConnections;
    services = mapAttrs (_: service) (filterAttrs (_: isGiven) proxy.services);
  });

  zone = each: filterAttrs (_: value: value != null) {
    inherit (each) preset interfaces;
    sources = orNull (each.allowedIPs != [ ]) each.allowedIPs;
    tcp = each.allowedTCPPorts;
    udp = each.allowedUDPPorts;
    services = each.allowedServices;
    allow = orNull (each.allowAllServices == true) "all";
    ping = each.allowPing;
    log = each.enableLogging;
  };
  passage = each: written {
    inherit (each) from to masquerade;
    services = each.allowedServices;
    tcp = each.allowedTCPPorts;
    udp = each.allowedUDPPorts;
    allow = orNull each.allowAllServices "all";
  };
  firewall = {
    default_policy = zones.defaultPolicy;
    log = zones.enableLogging;
    inherit (zones) services;
    zones =
      if zones.zones == { } then { internal = written { interfaces = [ "tailscale0" ]; tcp = ofProxy; }; }
      else mapAttrs (_: zone) (filterAttrs (_: each: each.enable) zones.zones);
    forward = map passage zones.forward;
  };

  monitorSection = besides { failover = true; } (written {
    interval = withUnit "s" monitor.checkInterval;
    probe = monitor.probeInterval;
    max_latency = withUnit "ms" monitor.maxLatency;
    # toJSON, since toString would write 2.5 as 2.500000.
    max_loss = "${toJSON monitor.maxPacketLoss}%";
    failures = monitor.failureThreshold;
    restore_after = monitor.restoreAfter;
    failover = monitor.enableAutoFailover;
    targets = map written monitor.targets;
    alerts = monitor.alerts ++ map (command: { inherit command; }) monitor.alertCommands;
    inherit (monitor) metrics;
  });
in
lib.recursiveUpdate
  (written {
    host = written {
      name = vpn.hostname;
      tailnet = proxy.tailnetDomain;
      inherit (own) uplink;
    };
    secrets = orNull fromTsstack { inherit (secrets) file; };
    tailscale = orNull vpn.enable tailscale;
    proxy = orNull proxy.enable proxySection;
    firewall = orNull zones.enable firewall;
    monitor = orNull monitor.enable monitorSection;
    dns = optionalAttrs (network.dns.split != { }) { inherit (network.dns) split; };
    kernel = written {
      profile = orNull (tuning.profile != "none") tuning.profile;
      sysctl = mapAttrs (_: value: if isBool value then (if value then 1 else 0) else value) tuning.sysctl;
      udp_gro = tuning.udpGro;
    };
    bandwidth = mapAttrs (_: written) bandwidth;
  })
  own.settings
