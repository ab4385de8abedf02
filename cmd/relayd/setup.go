package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/node/config"
)

// setup are the flags by which init and join write a configuration that is not
// there yet. If the file exists, it rules and they must not contradict it.
type setup struct {
	config    string
	id        string
	hostname  string
	dataDir   string
	advertise string
}

func (s *setup) flags(cmd *cobra.Command) {
	configFlag(cmd, &s.config)
	f := cmd.Flags()
	f.StringVar(&s.id, "id", "",
		"id of this node, fixed for life; for a new FILE (default: n1 for init, the host's name for join)")
	f.StringVar(&s.hostname, "hostname", "",
		"name in greetings and Received; for a new FILE (default: what the system says)")
	f.StringVar(&s.dataDir, "data-dir", "", "where the node keeps everything; for a new FILE (default: /var/lib/relay)")
	f.StringVar(&s.advertise, "advertise", "",
		"HOST:PORT at which other nodes reach this one; for a new FILE (default: HOSTNAME:7170)")
}

// load reads the configuration, or writes it first. With a new file comes a
// certificate of its own making, so that the node runs as it is.
func (s *setup) load(out *cobra.Command, defaultID string) (*config.Config, error) {
	if !exists(s.config) {
		if err := s.write(out, defaultID); err != nil {
			return nil, err
		}
	} else if err := s.makeNamed(out); err != nil {
		return nil, err
	}
	cfg, err := config.Load(s.config)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct{ flag, value, file string }{
		{"id", s.id, cfg.Node.ID},
		{"hostname", s.hostname, cfg.Node.Hostname},
		{"data-dir", s.dataDir, cfg.Node.DataDir},
		{"advertise", s.advertise, cfg.Cluster.Advertise},
	} {
		if c.value != "" && c.value != c.file {
			return nil, fmt.Errorf("--%s is %s but %s says %s; change the file or leave the flag out", c.flag, c.value,
				s.config, c.file)
		}
	}
	return cfg, nil
}

func (s *setup) write(out *cobra.Command, defaultID string) error {
	if err := s.complete(defaultID); err != nil {
		return err
	}
	cert, key := ownCertificate(s.dataDir)
	text := config.Default()
	for _, k := range []struct{ table, key, value string }{
		{"node", "id", s.id},
		{"node", "hostname", s.hostname},
		{"node", "data_dir", s.dataDir},
		{"cluster", "advertise", s.advertise},
		{"tls", "cert", cert},
		{"tls", "key", key},
	} {
		text = setKey(text, k.table, k.key, k.value)
	}
	if _, problems := config.Parse([]byte(text), os.LookupEnv); len(problems) > 0 {
		return usage("no configuration was written: %s", problems[0])
	}
	if err := makeDir(filepath.Dir(s.config)); err != nil { // before anything is written
		return err
	}
	if !exists(cert) {
		if err := writeCertificate(cert, key, "", names(s.hostname, s.advertise)); err != nil {
			return err
		}
	}
	if err := writeFile(s.config, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out.OutOrStdout(), "wrote %s, with a certificate of its own making at %s\n", s.config, cert)
	return nil
}

// ownCertificate is where a certificate of this node's own making is, and its key.
func ownCertificate(dataDir string) (cert, key string) {
	return filepath.Join(dataDir, "tls", "relay.crt"), filepath.Join(dataDir, "tls", "relay.key")
}

// makeNamed makes what a configuration that is there names and a new node makes for
// itself: the token file, and the certificate in the data directory, which has gone
// with that where a node is joined anew. Faults of the configuration are told by its
// loader.
func (s *setup) makeNamed(out *cobra.Command) error {
	data, err := os.ReadFile(s.config)
	if err != nil {
		return nil
	}
	cfg, problems := config.Parse(data, os.LookupEnv)
	if cfg == nil || len(problems) > 0 {
		return nil
	}
	if err := namedToken(cfg); err != nil {
		return err
	}
	cert, key := ownCertificate(cfg.Node.DataDir)
	if cfg.TLS.Cert != cert || cfg.TLS.Key != key || exists(cert) || exists(key) || cluster.Initialised(cfg.Node.DataDir) {
		return nil
	}
	if err := writeCertificate(cert, key, "", names(cfg.Node.Hostname, cfg.Cluster.Advertise)); err != nil {
		return err
	}
	fmt.Fprintf(out.OutOrStdout(), "wrote a certificate of its own making at %s\n", cert)
	return nil
}

// names are those that clients may use for this machine: its host name,
// localhost, where other nodes reach it, and its addresses.
func names(hostname, advertise string) []string {
	all := []string{hostname, "localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(advertise); err == nil && host != "" {
		all = append(all, host)
	}
	addresses, _ := net.InterfaceAddrs() // without them the certificate has the other names
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			all = append(all, n.IP.String())
		}
	}
	var names []string
	for _, n := range all {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// complete fills in what the flags left open.
func (s *setup) complete(defaultID string) error {
	if s.hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the system does not know its name, give --hostname: %w", err)
		}
		s.hostname = name
	}
	if s.id == "" {
		s.id = defaultID
	}
	if s.id == "" {
		s.id, _, _ = strings.Cut(strings.ToLower(s.hostname), ".")
	}
	if s.dataDir == "" {
		s.dataDir = config.New().Node.DataDir
	}
	dir, err := filepath.Abs(s.dataDir)
	if err != nil {
		return err
	}
	s.dataDir = dir
	if s.advertise == "" {
		s.advertise = net.JoinHostPort(s.hostname, "7170")
	}
	return nil
}

// setKey replaces the value of a key in an annotated file and keeps the
// comment behind it.
func setKey(text, table, key, value string) string {
	lines, in := strings.Split(text, "\n"), ""
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(strings.Fields(line)[0], "[]")
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		if !ok || in != table || strings.TrimSpace(name) != key {
			continue
		}
		comment := ""
		if at := strings.Index(rest, "#"); at >= 0 {
			comment = "   " + strings.TrimSpace(rest[at:])
		}
		lines[i] = fmt.Sprintf("%s = %q%s", key, value, comment)
	}
	return strings.Join(lines, "\n")
}

func newInit() *cobra.Command {
	var s setup
	var name string
	var once bool
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "make a new cluster of one node",
		Long: `Makes a new cluster of one node: its CA, its certificate, its data directory.
Where FILE is absent, the annotated default is written there first, with what
the flags say. A token for the admin API is made in admin.token of the data
directory, or in [admin] token_file, where there is none; relayctl on this
machine finds it. Other nodes come in with 'relayd join'.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load(cmd, "n1")
			if err != nil {
				return err
			}
			if err := cluster.CheckNode(cfg.Node.DataDir, cfg.Node.ID); err != nil {
				return err
			}
			if once && cluster.Initialised(cfg.Node.DataDir) {
				return nil
			}
			if once {
				err := askOthers(cmd.Context(), cmd.OutOrStdout(), cfg, askBefore)
				if errors.Is(err, errJoins) {
					fmt.Fprintln(cmd.OutOrStdout(), err)
					return nil
				}
				if err != nil {
					return err
				}
			}
			if err := initCluster(cmd.Context(), cfg, name, zap.NewNop()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), `node %s is a cluster of one.%s

Next:
  relayd run --config %s
  relayctl domain add DOMAIN
  relayctl user add USER@DOMAIN
  relayctl node token              a token for another machine's 'relayd join'
`, cfg.Node.ID, tokenNote(cfg), s.config)
			return nil
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&name, "name", "relay", "name of the cluster")
	cmd.Flags().BoolVar(&once, "once", false, "do nothing, successfully, where the data directory holds a node already; "+
		"refuse where one of [cluster] peers is in a cluster, and leave it to 'relayd run' where one of [cluster] join is")
	return cmd
}

func initCluster(ctx context.Context, cfg *config.Config, name string, log *zap.Logger) error {
	if cluster.Initialised(cfg.Node.DataDir) {
		return fmt.Errorf("%s holds a node already; 'relayd run' runs it", cfg.Node.DataDir)
	}
	if err := ensureToken(cfg); err != nil {
		return err
	}
	return cluster.Init(ctx, cluster.InitOptions{
		ID: cfg.Node.ID, Name: name, Dir: cfg.Node.DataDir, Advertise: cfg.Cluster.Advertise, Log: log,
	})
}

func newJoin() *cobra.Command {
	var s setup
	var token, tokenFile string
	cmd := &cobra.Command{
		Use:   "join --config FILE --token T ADDR",
		Short: "join a running cluster",
		Long: `Joins the cluster that a member at ADDR (its cluster address, HOST:PORT) belongs
to. 'relayctl node token' on any member makes the token. Where FILE is absent,
the annotated default is written there first, with what the flags say. The
node has a vote once it runs and has caught up.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (token == "") == (tokenFile == "") {
				return usage("give either --token or --token-file; 'relayctl node token' on a member makes one")
			}
			if tokenFile != "" {
				t, err := readToken(tokenFile)
				if err != nil {
					return err
				}
				token = t
			}
			if _, _, err := net.SplitHostPort(args[0]); err != nil {
				return usage("%q is not the HOST:PORT of a member's cluster port", args[0])
			}
			if err := cluster.CheckToken(token); err != nil && tokenFile == "" { // before anything is written
				return usage("%w", err)
			} else if err != nil {
				return fmt.Errorf("%s: %w", tokenFile, err)
			}
			cfg, err := s.load(cmd, "")
			if err != nil {
				return err
			}
			if err := cluster.CheckNode(cfg.Node.DataDir, cfg.Node.ID); err != nil {
				return err
			}
			if err := joinCluster(cmd.Context(), cfg, token, args[0], zap.NewNop()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(),
				"node %s may come in.\n\nNext:\n  relayd run --config %s\n  relayctl status --wait 60\n", cfg.Node.ID, s.config)
			return nil
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&token, "token", "", "join token")
	cmd.Flags().StringVar(&tokenFile, "token-file", "",
		"file that holds the join token (keeps it out of the process list)")
	return cmd
}

func joinCluster(ctx context.Context, cfg *config.Config, token, addr string, log *zap.Logger) error {
	if cluster.Initialised(cfg.Node.DataDir) {
		return fmt.Errorf("%s holds a node already; 'relayd run' runs it", cfg.Node.DataDir)
	}
	if err := ensureToken(cfg); err != nil {
		return err
	}
	return cluster.Join(ctx, cluster.JoinOptions{
		ID: cfg.Node.ID, Dir: cfg.Node.DataDir, Advertise: cfg.Cluster.Advertise, Token: token, Addr: addr, Log: log,
	})
}
