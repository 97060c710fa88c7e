# Services behind nginx: the file's `proxy` section.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ../types.nix { inherit lib; };
  network = config.kernelcore.network;
  cfg = network.proxy.nginx-tailscale;

  service = { name, ... }: {
    options = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Serve it. Switched off, it stays in the file and is not served.";
      };
      upstreamPort = mkOption {
        type = types.nullOr own.port;
        default = null;
        example = 11434;
        description = "The port of this host that the service listens on. Either this or `upstream` is needed, and not both.";
      };
      upstream = mkOption {
        type = types.listOf own.upstream;
        default = [ ];
        example = [ 8000 "192.168.15.9:8000 backup" ];
        description = "Where it listens: ports, `host:port`, addresses or sockets. Those marked ` backup` wait.";
      };
      protocol = mkOption {
        type = types.enum [ "http" "tcp" ];
        default = "http";
        example = "tcp";
        description = "`tcp` passes the bytes as they are (databases, anything but HTTP).";
      };
      subdomain = mkOption {
        type = types.nullOr own.label;
        default = null;
        example = "llama";
        description = "Its DNS label. Not set: the service's name.";
      };
      path = mkOption {
        type = types.nullOr own.location;
        default = null;
        example = "/llama";
        description = "Its path under `names = \"path\"`. Not set: `/` and the service's name.";
      };
      port = mkOption {
        type = types.nullOr own.port;
        default = null;
        example = 8443;
        description = "Its port under `names = \"port\"`, and for TCP services. Not set, for TCP: the upstream's.";
      };
      rateLimit = mkOption {
        type = types.nullOr own.rate;
        default = null;
        example = "20r/s";
        description = "The most requests from one client address; above it, 429. Not set: no limit.";
      };
      rateBurst = mkOption {
        type = types.nullOr (types.ints.between 0 100000);
        default = null;
        example = 40;
        description = "So many requests above the rate are still served at once. Not set: one second's worth.";
      };
      maxBodySize = mkOption {
        type = types.nullOr own.size;
        default = null;
        example = "500M";
        description = "The largest request body; 0 means no limit. Not set: 1 MiB.";
      };
      connectTimeout = mkOption {
        type = own.durationUpTo 75;
        default = "5s";
        example = "10s";
        description = "How long the upstream may take to accept a connection.";
      };
      readTimeout = mkOption {
        type = own.durationUpTo 86400;
        default = "1m";
        example = "10m";
        description = "How long the upstream may be silent.";
      };
      websockets = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Pass connection upgrades to the upstream.";
      };
      buffering = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Collect the upstream's answer before sending it; off for streams such as chat tokens.";
      };
      enableAuth = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Ask tailscaled who the client is, and let in those of `allow` (or of the proxy's `allowedUsers`) only. When
          both lists are empty nobody is let in.
        '';
      };
      allow = mkOption {
        type = types.listOf own.principal;
        default = [ ];
        example = [ "alice@example.com" "tag:client" ];
        description = "Who may use it, by login or tag. A list that is not empty switches the question on by itself.";
      };
      verifyUpstream = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Check the certificate of an https upstream.";
      };
    };
  };
in
{
  options.kernelcore.network.proxy.nginx-tailscale = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Serve this host's services to the tailnet. nginx is run by tsstack, on the tailnet's addresses, beside
        `services.nginx` and not inside of it.
      '';
    };
    package = mkOption {
      type = types.package;
      # Newer nixpkgs have HTTP/3 in every nginx, and an alias of that name that throws.
      default =
        let quic = builtins.tryEval (pkgs.nginxQuic or null);
        in if cfg.enableHTTP3 && quic.success && quic.value != null then quic.value else pkgs.nginx;
      defaultText = literalExpression "if enableHTTP3 then pkgs.nginxQuic, where there is one, else pkgs.nginx";
      example = literalExpression "pkgs.nginxMainline";
      description = "The nginx that tsstack runs.";
    };
    hostname = mkOption {
      type = own.hostname;
      default = network.vpn.tailscale.hostname;
      defaultText = literalExpression "config.kernelcore.network.vpn.tailscale.hostname";
      example = "kernelcore";
      description = "The host's name on the tailnet. There is one name, so it must be that of the VPN module.";
    };
    tailnetDomain = mkOption {
      type = types.nullOr own.domain;
      default = network.proxy.tailscale-services.tailnetDomain;
      defaultText = literalExpression "config.kernelcore.network.proxy.tailscale-services.tailnetDomain";
      example = "your-tailnet.ts.net";
      description = "The MagicDNS suffix (Headscale: its `base_domain`): `host.tailnet` of the file.";
    };
    names = mkOption {
      type = types.enum [ "subdomain" "path" "port" "service" ];
      default = "subdomain";
      example = "path";
      description = ''
        How a service is addressed: `ollama.host.tailnet`, `host.tailnet/ollama`, `host.tailnet:port` or
        `ollama.tailnet`. A stock tailnet does not resolve names below a host: use `path` or `port` there.
      '';
    };
    tls = mkOption {
      type = types.enum [ "tailscale" "local-ca" "off" ];
      default = "tailscale";
      example = "local-ca";
      description = "Where certificates come from, unless `certificate` and `certificateKey` are set.";
    };
    certificate = mkOption {
      type = types.nullOr own.file;
      default = null;
      example = "/var/lib/acme/example.com/fullchain.pem";
      description = "A certificate of your own: the PEM file with its chain.";
    };
    certificateKey = mkOption {
      type = types.nullOr own.file;
      default = null;
      example = "/var/lib/acme/example.com/key.pem";
      description = "Its private key, outside of the Nix store; it is never copied.";
    };
    listen = mkOption {
      type = types.either (types.enum [ "tailnet" "all" ]) (own.someOf own.address);
      default = "tailnet";
      example = [ "192.168.15.2" ];
      description = "The addresses that nginx binds: the tailnet's own, every one, or a list.";
    };
    enableHTTP3 = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Serve HTTP/3 too. Takes an nginx that is built with it.";
    };
    httpPort = mkOption {
      type = own.port;
      default = 80;
      example = 8080;
      description = "Port for plain HTTP; with TLS it only redirects.";
    };
    httpsPort = mkOption {
      type = own.port;
      default = 443;
      example = 8443;
      description = "Port for HTTPS and HTTP/3.";
    };
    enableConnectionPooling = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Keep idle connections to the upstreams open for the next request.";
    };
    poolSize = mkOption {
      type = types.ints.between 1 10000;
      default = 32;
      example = 128;
      description = "Idle connections kept open to each upstream.";
    };
    workerConnections = mkOption {
      type = types.ints.between 64 1000000;
      default = 4096;
      example = 16384;
      description = "Connections per nginx worker. Workers are one per processor, with 65535 files each, by epoll.";
    };
    status = mkOption {
      type = own.loopback;
      default = "127.0.0.1:9180";
      example = "127.0.0.1:9181";
      description = "Loopback address of the status endpoint.";
    };
    allowedUsers = mkOption {
      type = types.listOf own.principal;
      default = [ ];
      example = [ "alice@example.com" ];
      description = "Who may use the services that say `enableAuth` and name nobody themselves.";
    };
    services = mkOption {
      type = types.attrsOf (types.submodule service);
      default = { };
      example = literalExpression ''{ ollama = { upstreamPort = 11434; rateLimit = "20r/s"; }; }'';
      description = "The services, by name.";
    };
  };
}
