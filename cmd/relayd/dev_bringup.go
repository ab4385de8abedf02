package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"relay/cluster"
	"relay/node/admin"
)

// pollEvery is how often something that is about to happen is looked for.
const pollEvery = 15 * time.Millisecond

// startWithin is how long a cluster may take to come up.
const startWithin = 90 * time.Second

// bringUp starts all nodes, makes those that are new, and returns when every
// one serves. It is done again from where an earlier run was broken off.
func (d *dev) bringUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin,
		fmt.Errorf("the cluster did not come up within %s; the logs are under %s", startWithin, d.plan.Dir))
	defer cancel()
	err := d.bringUpNodes(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

func (d *dev) bringUpNodes(ctx context.Context) error {
	known, fresh := d.sort()
	if len(known) == 0 {
		first := fresh[0]
		if err := d.init(ctx, first); err != nil {
			return err
		}
		known, fresh = []*process{first}, fresh[1:]
	}
	for _, n := range known {
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := d.awaitReady(ctx, known[0]); err != nil {
		return err
	}
	api, err := d.client(known[0])
	if err != nil {
		return err
	}
	defer api.Close()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.fill(gctx, api) })
	g.Go(func() error { return d.join(gctx, api, known[0], fresh) })
	if err := g.Wait(); err != nil {
		return err
	}
	return d.awaitAll(ctx)
}

// sort tells the nodes that have a state from those that have none.
func (d *dev) sort() (known, fresh []*process) {
	for _, n := range d.nodes {
		if cluster.Initialised(d.plan.nodeDir(n.node)) {
			known = append(known, n)
		} else {
			fresh = append(fresh, n)
		}
	}
	return known, fresh
}

func (d *dev) init(ctx context.Context, n *process) error {
	return cluster.Init(ctx, cluster.InitOptions{
		ID: d.plan.id(n.node), Name: "dev", Dir: d.plan.nodeDir(n.node),
		Advertise: d.plan.addr(n.node, portCluster), Log: zap.NewNop(),
	})
}

// join lets the fresh nodes in at a member and starts them, all at once.
func (d *dev) join(ctx context.Context, api *admin.Client, member *process, fresh []*process) error {
	if len(fresh) == 0 {
		return nil
	}
	token, err := api.Token(ctx, devBy(), admin.TokenRequest{Uses: len(fresh), TTLSeconds: 300})
	if err != nil {
		return fmt.Errorf("the join token: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range fresh {
		g.Go(func() error {
			err := cluster.Join(ctx, cluster.JoinOptions{
				ID: d.plan.id(n.node), Dir: d.plan.nodeDir(n.node), Advertise: d.plan.addr(n.node, portCluster),
				Token: token.Token, Addr: d.plan.addr(member.node, portCluster), Log: zap.NewNop(),
			})
			if err != nil {
				return fmt.Errorf("node %s: %w", d.plan.id(n.node), err)
			}
			return n.start()
		})
	}
	return g.Wait()
}

// fill makes the domain, the accounts and the route, the first time. Later what
// was changed meanwhile stays; only another --relay makes the route anew.
func (d *dev) fill(ctx context.Context, api *admin.Client) error {
	if d.plan.NextHop == d.nextHop() {
		return nil
	}
	if d.plan.NextHop == "" {
		if err := d.fillDirectory(ctx, api); err != nil {
			return err
		}
	}
	d.plan.NextHop = d.nextHop()
	route := admin.Route{Domain: "*", Target: "smtp:" + d.plan.NextHop}
	if err := api.SetRoute(ctx, devBy(), route); err != nil {
		return fmt.Errorf("the route: %w", err)
	}
	d.filled = true
	return d.plan.save()
}

// devBy is what the audit log says of changes made here.
func devBy() admin.By { return admin.By{Why: "relayd dev"} }

// fillDirectory can be done again after it was broken off.
func (d *dev) fillDirectory(ctx context.Context, api *admin.Client) error {
	err := ignoreExists(api.AddDomain(ctx, devBy(), admin.Domain{Name: devDomain}))
	if err != nil {
		return fmt.Errorf("domain %s: %w", devDomain, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, user := range []string{"alice", "bob"} {
		g.Go(func() error {
			return ignoreExists(api.AddUser(gctx, devBy(),
				admin.UserAdd{Address: user + "@" + devDomain, Password: devPassword}))
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("the accounts: %w", err)
	}
	alias := admin.Alias{Address: "postmaster@" + devDomain, Targets: []string{"alice@" + devDomain}}
	if err := api.SetAlias(ctx, devBy(), alias); err != nil {
		return fmt.Errorf("alias postmaster: %w", err)
	}
	return nil
}

func (d *dev) nextHop() string {
	if d.options.relay != "" {
		return d.options.relay
	}
	return d.plan.sink()
}

// ignoreExists takes a conflict on adding for what it is.
func ignoreExists(err error) error {
	if errors.Is(err, admin.ErrConflict) {
		return nil
	}
	return err
}

// client asks one node only.
func (d *dev) client(n *process) (*admin.Client, error) {
	return admin.NewClient(admin.ClientOptions{
		Addrs: []string{d.plan.adminURL(n.node)},
		Token: devToken,
		HTTP:  admin.DefaultHTTP(func(t *http.Transport) { t.Proxy = nil }),
	})
}

// awaitReady returns when a node may take traffic.
func (d *dev) awaitReady(ctx context.Context, n *process) error {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	url := d.plan.adminURL(n.node) + "/readyz"
	return n.await(ctx, func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// await asks until the answer is yes; it fails when the node's process ends.
func (n *process) await(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.ended():
			return n.failure()
		case <-tick.C:
		}
	}
	return nil
}

// awaitAll returns when every node is ready, has a vote, and knows what fill
// made last.
func (d *dev) awaitAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range d.nodes {
		g.Go(func() error {
			if err := d.awaitReady(ctx, n); err != nil {
				return err
			}
			api, err := d.client(n)
			if err != nil {
				return err
			}
			defer api.Close()
			return n.await(ctx, func() bool { return d.complete(ctx, api) })
		})
	}
	return g.Wait()
}

// complete reports whether one node sees the whole cluster, and the route if it
// was just made.
func (d *dev) complete(ctx context.Context, api *admin.Client) bool {
	status, err := api.Status(ctx)
	if err != nil || !status.Healthy || len(status.Nodes) != d.plan.Nodes {
		return false
	}
	for _, n := range status.Nodes {
		if n.Role != admin.RoleLeader && n.Role != admin.RoleFollower {
			return false
		}
	}
	if !d.filled {
		return true
	}
	routes, err := api.Routes(ctx)
	if err != nil {
		return false
	}
	for _, r := range routes {
		if r.Domain == "*" && r.Target == "smtp:"+d.nextHop() {
			return true
		}
	}
	return false
}

// readyInfo is the content of --ready-file.
func (d *dev) readyInfo() ([]byte, error) {
	type node struct {
		ID          string `json:"id"`
		PID         int    `json:"pid"`
		SMTP        int    `json:"smtp"`
		Submission  int    `json:"submission"`
		Submissions int    `json:"submissions"`
		POP3        int    `json:"pop3"`
		POP3S       int    `json:"pop3s"`
		Admin       int    `json:"admin"`
		Cluster     int    `json:"cluster"`
	}
	info := struct {
		Dir   string `json:"dir"`
		Sink  string `json:"sink,omitempty"`
		Nodes []node `json:"nodes"`
	}{Dir: d.plan.Dir}
	if d.options.relay == "" {
		info.Sink = d.plan.path("sink")
	}
	for _, n := range d.nodes {
		at := func(s service) int { return d.plan.port(n.node, s) }
		info.Nodes = append(info.Nodes, node{
			d.plan.id(n.node), n.pid(), at(portSMTP), at(portSubmission), at(portSubmissions),
			at(portPOP3), at(portPOP3S), at(portAdmin), at(portCluster),
		})
	}
	data, err := json.MarshalIndent(info, "", "  ")
	return append(data, '\n'), err
}

// table is what a person reads when the cluster is up.
func (d *dev) table(took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s up after %.1f s, everything under %s\n\n", count(d.plan.Nodes, "node"), took.Seconds(), d.plan.Dir)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\tprocess\tSMTP\tsubmission\tsubmissions\tPOP3\tPOP3S\tadmin\tcluster")
	for _, n := range d.nodes {
		fmt.Fprintf(w, "%s\t%d", d.plan.id(n.node), n.pid())
		for _, s := range []service{portSMTP, portSubmission, portSubmissions, portPOP3, portPOP3S, portAdmin, portCluster} {
			fmt.Fprintf(w, "\t%d", d.plan.port(n.node, s))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	if d.options.relay == "" {
		fmt.Fprintf(&b, "\nRemote mail ends in the sink: %s\n", d.plan.path("sink"))
	} else {
		fmt.Fprintf(&b, "\nRemote mail goes to %s\n", d.options.relay)
	}
	fmt.Fprintf(&b, "Users: alice and bob of %s, password %s. CA of the TLS ports: %s\n", devDomain, devPassword,
		d.plan.path("ca.pem"))
	b.WriteString(d.suggestions())
	return b.String()
}

// suggestions are commands to try.
func (d *dev) suggestions() string {
	last := d.plan.Nodes
	ctl := "relayctl" // finds the usual ports by itself
	if d.plan.BasePort != defaultBase {
		ctl = fmt.Sprintf("relayctl --addr %s --token %s", d.plan.adminURL(last), devToken)
	}
	return fmt.Sprintf(`
Try:
  swaks -s %[1]s -f bob@%[3]s -t alice@%[3]s
  curl -u alice:%[4]s pop3://%[2]s/1
  swaks -s %[1]s -f alice@%[3]s -t someone@example.net
  %[5]s status
  %[5]s trace --from alice@%[3]s
  kill -9 $(cat %[6]s)

Ctrl-C stops all.
`, d.plan.addr(1, portSMTP), d.plan.addr(last, portPOP3), devDomain, devPassword, ctl, shellWord(d.plan.path("n1", "relayd.pid")))
}

// shellWord writes a text as one word of a shell's command line.
func shellWord(s string) string {
	if strings.Trim(s, "/._-+=:,@%0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
