package members

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// places is what a book knows of where nodes are. No source overrules another: a
// node that was renumbered while it was stopped is at the newest address, and
// nobody but its certificate tells which one that is.
//
// A node is looked for where it answered last, where it said it is, at its record, in
// raft's configuration, in [cluster] peers, and where Join or Recover said. The next
// address is tried when one refuses or is silent for 200 ms; the certificate proves who
// answers, so a wrong one costs time and nothing else.
type places struct {
	own     string            // where this node is
	worked  map[string]string // the node answered there last, in this run
	told    map[string]string // the node, or one that it had told, said so in this run
	records map[string]string // member records, which nodes renew when they register
	peers   map[string]string // [cluster] peers
	hints   map[string]string // what Join and Recover were told
}

// NewPlaces takes what is known at the start: this node's own address, [cluster] peers, and hints.
func NewPlaces(own string, peers, hints map[string]string) places {
	return places{
		own: own, peers: peers, hints: hints,
		worked: map[string]string{}, told: map[string]string{}, records: map[string]string{},
	}
}

// Learn reads the member records again. A record that has changed is newer than
// the address that worked before.
func (b *AddressBook) Learn(v spool.View) error {
	members, err := v.Members()
	if err != nil {
		return err
	}
	records := make(map[string]string, len(members))
	for _, m := range members {
		records[m.Id] = m.Address
	}
	for _, node := range b.enter(records, logsOf(members)) {
		b.OnLog(node)
	}
	return nil
}

// enter takes new records, and returns the nodes that have another log now.
func (b *AddressBook) enter(records, logs map[string]string) (renewed []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for node, addr := range records {
		if b.records[node] != addr {
			delete(b.worked, node)
		}
	}
	for node, log := range b.logs {
		if logs[node] != log {
			renewed = append(renewed, node)
		}
	}
	b.records, b.logs = records, logs
	return renewed
}

func logsOf(members []*pb.Member) map[string]string {
	logs := make(map[string]string, len(members))
	for _, m := range members {
		logs[m.Id] = m.Log
	}
	return logs
}

// Candidates are the addresses at which a node may be, the likeliest first.
func (b *AddressBook) Candidates(node string) []string {
	configured := b.configured(node)
	b.mu.RLock()
	defer b.mu.RUnlock()
	var own string
	if node == b.Self {
		own = b.own
	}
	var all []string
	for _, addr := range []string{
		own, b.worked[node], b.told[node], b.records[node], configured, b.peers[node], b.hints[node],
	} {
		if addr != "" && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// JoinServers are the addresses at which any other member may be.
func (b *AddressBook) JoinServers() (all []string) {
	nodes := map[string]bool{}
	for _, s := range b.Servers() {
		nodes[string(s.ID)] = true
	}
	b.mu.RLock()
	for node := range b.peers {
		nodes[node] = true
	}
	b.mu.RUnlock()
	delete(nodes, b.Self)
	for node := range nodes {
		for _, addr := range b.Candidates(node) {
			if !slices.Contains(all, addr) && addr != b.own {
				all = append(all, addr)
			}
		}
	}
	return all
}

// configured is the address of a node in raft's configuration.
func (b *AddressBook) configured(node string) string {
	for _, s := range b.Servers() {
		if string(s.ID) == node {
			return string(s.Address)
		}
	}
	return ""
}

// Address returns where a node listens, as far as is known: a record comes
// before raft's configuration, and that before what this node was told.
func (b *AddressBook) Address(node string) (string, error) {
	configured := b.configured(node)
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, addr := range []string{b.records[node], configured, b.peers[node], b.hints[node]} {
		if addr != "" {
			return addr, nil
		}
	}
	return "", fmt.Errorf("cluster: no address is known for node %s", node)
}

// note remembers at which address a node answered.
func (b *AddressBook) note(node, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.worked[node] = addr
}

// Hear remembers where a node is said to be.
func (b *AddressBook) Hear(node, addr string) {
	if _, _, err := net.SplitHostPort(addr); err != nil || node == b.Self || len(addr) > 300 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[node] = addr
}

// Found lists where nodes are by what has worked, or was told, in this run.
func (b *AddressBook) Found() map[string]string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := map[string]string{b.Self: b.own}
	for node, addr := range b.told {
		all[node] = addr
	}
	for node, addr := range b.worked {
		all[node] = addr
	}
	return all
}

// ServerAddr tells raft the name under which stream.Dial finds a node. It
// implements raft.ServerAddressProvider. The name never changes, so that raft's
// connections outlive a change of the address.
func (b *AddressBook) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(string(id) + AddressMark), nil
}

// stagger is how long an address may be silent before the next one is tried
// beside it. An address that is not in use any more may never answer.
const stagger = 200 * time.Millisecond

type dialled struct {
	conn *wire.Conn
	addr string
	err  error
}

// Dial connects to a node at whichever of its addresses it is. try must fail
// where another node answers.
func (b *AddressBook) Dial(ctx context.Context, node string, try func(ctx context.Context,
	addr string) (*wire.Conn, error)) (*wire.Conn, error) {
	all := b.Candidates(node)
	if len(all) == 0 {
		return nil, fmt.Errorf("cluster: no address is known for node %s", node)
	}
	conn, addr, err := race(ctx, all, try)
	if err == nil {
		b.note(node, addr)
	}
	return conn, err
}

// race tries addresses one after the other, and the next one also where one is
// slow; the first that answers wins, and what comes later is closed.
func race(ctx context.Context, all []string, try func(ctx context.Context,
	addr string) (*wire.Conn, error)) (*wire.Conn, string, error) {
	if len(all) == 1 {
		conn, err := try(ctx, all[0])
		return conn, all[0], err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan dialled, len(all))
	begun, ended := 0, 0
	next := func() {
		if begun == len(all) {
			return
		}
		addr := all[begun]
		begun++
		go func() {
			conn, err := try(ctx, addr)
			answers <- dialled{conn, addr, err}
		}()
	}
	next()
	slow := time.NewTicker(stagger)
	defer slow.Stop()
	var failed error
	for ended < len(all) {
		select {
		case <-slow.C:
			next()
		case a := <-answers:
			ended++
			if a.err == nil {
				go closeLate(answers, begun-ended)
				return a.conn, a.addr, nil
			}
			failed = eitherError(failed, a.err)
			next()
		}
	}
	return nil, "", failed
}

func closeLate(answers <-chan dialled, n int) {
	for range n {
		if a := <-answers; a.err == nil {
			_ = a.conn.Close()
		}
	}
}

// eitherError keeps both errors, on one line.
func eitherError(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; %w", a, b)
}

// AddressMark stands behind the node id in the addresses that raft dials: a
// dialler must know whom it has to find, and the AddressBook knows where.
const AddressMark = "@"
