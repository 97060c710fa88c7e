# A control server, a host, a client: from NixOS options to packets. Run by `nix flake check` where KVM is.
{ module }:
let
  baseDomain = "tail.test";
in
{
  name = "tsstack-tailnet";

  nodes = {
    control = {
      networking.firewall.allowedTCPPorts = [ 8080 ];
      networking.firewall.allowedUDPPorts = [ 3478 ];
      services.headscale = {
        enable = true;
        address = "0.0.0.0";
        port = 8080;
        settings = {
          server_url = "http://control:8080";
          dns = {
            base_domain = baseDomain;
            magic_dns = true;
            override_local_dns = false;
            extra_records = [ ];
          };
          derp = {
            urls = [ ];
            auto_update_enabled = false;
            server = {
              enabled = true;
              region_id = 999;
              stun_listen_addr = "0.0.0.0:3478";
              private_key_path = "/var/lib/headscale/derp.key";
            };
          };
        };
      };
    };

    host = { pkgs, ... }: {
      imports = [ module ];
      networking.hostName = "host";
      services.openssh.enable = true;

      kernelcore.tsstack.uplink = "eth1";
      kernelcore.network = {
        vpn.tailscale = {
          enable = true;
          loginServer = "http://control:8080";
          authKeyFile = "/run/keys/tailscale";
        };
        proxy.nginx-tailscale = {
          enable = true;
          tailnetDomain = baseDomain;
          names = "path";
          tls = "local-ca";
          services.wiki.upstreamPort = 8000;
        };
        security.firewall-zones = {
          enable = true;
          zones.internal.interfaces = [ "tailscale0" ];
          zones.dmz.allowedTCPPorts = [ 22 ];
        };
        monitoring.tailscale.enable = true;
      };

      systemd.services.wiki = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${pkgs.python3}/bin/python -m http.server 8000 --bind 127.0.0.1";
      };
      # A port that no zone opens.
      systemd.services.hidden = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${pkgs.python3}/bin/python -m http.server 9000";
      };
      specialisation.open.configuration.kernelcore.network.security.firewall-zones.zones.dmz.allowedTCPPorts = [ 9000 ];
    };

    client = {
      services.tailscale.enable = true;
      networking.firewall.trustedInterfaces = [ "tailscale0" ];
    };
  };

  testScript = ''
    import json

    start_all()
    control.wait_for_unit("headscale")
    control.wait_for_open_port(8080)
    control.succeed("headscale users create lab")
    users = json.loads(control.succeed("headscale users list -o json"))
    make = f"headscale preauthkeys create --user {users[0]['id']} --reusable -o json"
    key = json.loads(control.succeed(make))["key"]

    client.wait_for_unit("tailscaled")
    client.succeed(f"tailscale up --login-server http://control:8080 --auth-key {key} --accept-dns=false")

    with subtest("without its key the host is not joined, and says so"):
        host.wait_for_unit("multi-user.target")
        host.fail("systemctl restart tsstack-switch")
        host.succeed("journalctl -u tsstack-switch | grep /run/keys/tailscale")

    with subtest("until then NixOS's own firewall goes on as the fallback"):
        host.wait_for_open_port(9000)
        client.fail("curl -s --max-time 3 http://host:9000/")
        client.succeed("timeout 3 bash -c '</dev/tcp/host/22'")

    with subtest("a switch makes the host as the options say"):
        host.succeed(f"install -d /run/keys && umask 077 && echo {key} > /run/keys/tailscale")
        host.succeed("systemctl restart tsstack-switch")
        host.succeed("nft list table inet tsstack")
        address = host.succeed("tailscale ip -4").strip()
        client.wait_until_succeeds(f"tailscale ping -c 1 {address}", timeout=60)

    with subtest("the proxy serves, and its authority is the one to trust"):
        root = host.succeed("tsstack certificates root")
        client.succeed(f"cat > /tmp/root.pem <<'EOF'\n{root}\nEOF")
        name = "host.${baseDomain}"
        ask = f"curl -sf --cacert /tmp/root.pem --resolve {name}:443:{address} https://{name}/wiki/"
        client.wait_until_succeeds(ask, timeout=60)

    with subtest("what no zone opens is closed, on the tailnet and on the uplink"):
        client.fail(f"curl -s --max-time 3 http://{address}:9000/")
        client.fail("curl -s --max-time 3 http://host:9000/")
        client.succeed("timeout 3 bash -c '</dev/tcp/host/22'")

    with subtest("nothing to do the second time"):
        assert "nothing to do" in host.succeed("tsstack switch")

    with subtest("another configuration is another generation, and back"):
        activate = "bin/switch-to-configuration test"
        host.succeed(f"/run/current-system/specialisation/open/{activate}")
        client.wait_until_succeeds("curl -sf --max-time 3 http://host:9000/", timeout=60)
        host.succeed(f"/run/booted-system/{activate}")
        client.wait_until_fails("curl -s --max-time 3 http://host:9000/", timeout=60)

    with subtest("the monitor runs"):
        host.wait_for_unit("tsstack-monitor")
        host.succeed("tsstack monitor status")

    with subtest("a reboot comes up the same"):
        host.shutdown()
        host.start()
        host.wait_for_unit("tsstack-boot")
        host.wait_for_unit("tsstack-switch")
        client.wait_until_succeeds(ask, timeout=120)
        client.fail("curl -s --max-time 3 http://host:9000/")
  '';
}
