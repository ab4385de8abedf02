package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A node directory holds identity.json (written last, as a whole), raft/, state/. The
// log carries the identity's log name: a node never runs with another log than it began
// with, as it would vote without knowing its promises. A join token is "rj1." +
// base64url(SHA-256 of the CA's certificate, then the secret); the joining node checks
// the CA before it sends the secret and believes nothing else of the reply. It enters
// without a vote; the leader promotes it when it is live and has been caught up for a
// while. An id that is known comes back only when its session is dead, and then its old
// vote is removed first.

// JoinOptions describe a node that wants to become a member.
type JoinOptions struct {
	ID        string // of the node, for life; or the one it had before its disk was lost
	Dir       string
	Advertise string // host:port at which others will reach the node
	Token     string // as Token made it
	Addr      string // cluster port of any member
	Log       *zap.Logger
	Dial      func(ctx context.Context, addr string) (net.Conn, error) // nil: the system's
	// MaxVersion is the newest cluster version that the node's build says it
	// knows; 0: what it does know. Tests of mixed versions set it.
	MaxVersion uint32
}

// joinRequest and joinReply are the one exchange on a join connection; each is
// JSON behind its length (4 octets, big endian).
type joinRequest struct {
	Secret    []byte `json:"secret"`
	Node      string `json:"node"`
	Advertise string `json:"advertise"`
	CSR       []byte `json:"csr"`
	Request   []byte `json:"request"`        // one for all tries: a token is used once
	Asks      string `json:"asks,omitempty"` // member: nothing but whether the node of the certificate shown is one
	// The cluster versions that the node's build applies; builds of version 1 do
	// not say.
	MinVersion uint32 `json:"min_version,omitempty"`
	MaxVersion uint32 `json:"max_version,omitempty"`
}

type joinReply struct {
	Refused string            `json:"refused,omitempty"` // in words; nothing else is set
	Kind    string            `json:"kind,omitempty"`    // token, member, version, or empty: try again; removed or known to who asks
	Cluster string            `json:"cluster,omitempty"`
	Name    string            `json:"name,omitempty"`
	Cert    string            `json:"cert,omitempty"`
	CA      string            `json:"ca,omitempty"`
	Next    string            `json:"next,omitempty"`  // trusted, too, while the CA changes
	Cross   string            `json:"cross,omitempty"` // see identity
	Peers   map[string]string `json:"peers,omitempty"`
	Index   uint64            `json:"index,omitempty"` // at which the node was entered, or a later one

	Generation string `json:"generation,omitempty"` // the cluster's name in certificates; empty: Cluster

	Seal []datadir.SealKey `json:"seal,omitempty"` // see identity
}

const (
	joinLimit  = 64 << 10
	joinTime   = 30 * time.Second
	askJoin    = "cluster/join"
	kindToken  = "token"
	kindMember = "member"
	// kindVersion: the node's build can't follow the cluster.
	kindVersion = "version"
)

// Join makes a node of an empty directory a member of a running cluster: it
// checks the CA against the token's fingerprint before it sends the secret,
// has its key certified, and is entered as a member without a vote; the vote
// comes by itself when the node runs and has caught up. The identity file is
// written last and as a whole. Errors: ErrInUse, ErrToken, ErrMember, ErrTooOld;
// anything else may be tried again with the same token while it has uses left.
func Join(ctx context.Context, o JoinOptions) error {
	if err := datadir.CheckNames(o.ID, o.Advertise); err != nil {
		return err
	}
	token, err := pki.ParseToken(o.Token)
	if err != nil {
		return err
	}
	if err := datadir.Vacant(o.Dir); err != nil {
		return err
	}
	key, csr, err := pki.NewRequest(o.ID)
	if err != nil {
		return fmt.Errorf("cluster: make the node's key: %w", err)
	}
	req := joinRequest{Secret: token.Secret[:], Node: o.ID, Advertise: o.Advertise, CSR: csr, Request: make([]byte, 16),
		MinVersion: spool.MinVersion, MaxVersion: spool.MaxVersion}
	if o.MaxVersion != 0 {
		req.MaxVersion = o.MaxVersion
	}
	_, _ = rand.Read(req.Request)
	reply, err := requestJoin(ctx, o, token, req)
	if err != nil {
		return err
	}
	id := &datadir.Identity{
		Cluster: reply.Cluster, Generation: reply.Generation, Name: reply.Name, Node: o.ID, Advertise: o.Advertise,
		CA: reply.CA, CANext: reply.Next, CACross: reply.Cross, Cert: reply.Cert, Key: string(key),
		Log: datadir.NewLogName(), Fresh: true, Peers: reply.Peers, Joined: reply.Index,
		Seal: reply.Seal,
	}
	me, err := id.Wire()
	if err == nil {
		_, err = me.Self()
	}
	if err != nil {
		return fmt.Errorf("cluster: the member's answer is unusable: %w", err)
	}
	if err := id.Save(o.Dir); err != nil {
		return fmt.Errorf("cluster: write the identity: %w", err)
	}
	o.Log.Info("cluster: joined", zap.String("cluster", id.Cluster), zap.String("node", id.Node))
	return nil
}

// requestJoin asks until it is let in or refused for good.
func requestJoin(ctx context.Context, o JoinOptions, token pki.Token, req joinRequest) (joinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	for {
		reply, err := requestJoinOnce(ctx, o, token, req)
		switch {
		case err == nil && reply.Refused == "":
			return reply, nil
		case errors.Is(err, wire.ErrFingerprint):
			return reply, fmt.Errorf("%w: %s belongs to another cluster than the token", fault.ErrToken, o.Addr)
		case err != nil:
			err = fmt.Errorf("cluster: join by way of %s: %w", o.Addr, err)
		case reply.Kind == kindToken:
			return reply, fmt.Errorf("%w: %s", fault.ErrToken, reply.Refused)
		case reply.Kind == kindMember:
			return reply, fmt.Errorf("%w: %s", fault.ErrMember, reply.Refused)
		case reply.Kind == kindVersion:
			return reply, fmt.Errorf("%w: %s", fault.ErrTooOld, reply.Refused)
		default:
			err = fmt.Errorf("cluster: %s refuses for now: %s", o.Addr, reply.Refused)
		}
		if errors.Is(err, wire.ErrPeer) {
			return reply, err
		}
		o.Log.Info("cluster: trying again", zap.Error(err))
		if clock.Sleep(ctx, 250*time.Millisecond); ctx.Err() != nil {
			return reply, err
		}
	}
}

func requestJoinOnce(
	ctx context.Context, o JoinOptions, token pki.Token, req joinRequest,
) (reply joinReply, err error) {
	c, ca, err := wire.DialJoin(ctx, o.Addr, token.Fingerprint, nil, o.Dial)
	if err != nil {
		return reply, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	if err := writeJSON(c, req); err != nil {
		return reply, err
	}
	if err := readJSON(c, &reply); err != nil {
		return reply, err
	}
	// We trust the CA that the token vouches for, and the one that takes its place while
	// the CA changes.
	pin := string(pki.CertPEM(ca.Raw))
	if reply.CA == "" {
		reply.CA = pin
	}
	if reply.CA != pin && reply.Next != pin {
		return reply, fmt.Errorf("%w: its CA is not the one that it shows", wire.ErrPeer)
	}
	return reply, nil
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > joinLimit {
		return propose.ErrParcel
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// awaitDeath waits for the end of the session of a node that has just died, so
// that it can come back at once; a session that is renewed is alive.
func (c *Cluster) awaitDeath(ctx context.Context, node string) error {
	var seen uint64
	for {
		var s *pb.Session
		var live bool
		err := c.store.View(func(v spool.View) (err error) {
			s, live, err = v.Session(node)
			return err
		})
		switch {
		case err != nil || !live:
			return err
		case seen == 0:
			seen = s.Renewed
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.detector.Grace(s)+2*c.t.Margin)
			defer cancel()
		case seen != s.Renewed || ctx.Err() != nil:
			return fmt.Errorf("%w: %s runs now: choose another id, or stop that node first", fault.ErrMember, node)
		}
		clock.Sleep(ctx, 20*time.Millisecond)
	}
}

// unlessLive returns the cluster's record, unless the node id belongs to a
// member that lives.
func (c *Cluster) unlessLive(node string) (record *pb.Cluster, err error) {
	err = c.store.View(func(v spool.View) error {
		var there bool
		if record, there, err = v.Cluster(); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: the cluster is just being made", fault.ErrUnavailable)
		}
		_, live, err := v.Session(node)
		if err == nil && live {
			err = fmt.Errorf("%w: %s runs now: choose another id, or stop that node first", fault.ErrMember, node)
		}
		return err
	})
	return record, err
}

// unlessOccupied refuses an address that another member has, up or down: raft takes no
// two servers at one address.
func (c *Cluster) unlessOccupied(on configuration, node raft.ServerID, addr string) error {
	for _, s := range on.servers {
		now, err := c.book.Address(string(s.ID))
		if s.ID == node || string(s.Address) != addr && (err != nil || now != addr) {
			continue
		}
		return fmt.Errorf("%w: %s is at %s: give %s an address of its own ([cluster] advertise, or --advertise), "+
			"or, if %s is gone for good, take that out first with 'relayctl node rm %s'",
			fault.ErrMember, s.ID, addr, node, s.ID, s.ID)
	}
	return nil
}

func (c *Cluster) useToken(ctx context.Context, token pki.Token, req joinRequest) error {
	f, err := spool.Encode(spool.KindUseToken, &pb.UseToken{
		Hash: token.Hash(), Node: req.Node, Request: token.Request(req.Request),
	})
	if err != nil {
		return err
	}
	res, err := c.propose(ctx, f)
	if err != nil {
		return err
	}
	if res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		return fmt.Errorf("%w: %s", fault.ErrToken, res.Text)
	}
	return nil
}

// enter makes a node a member without a vote, on the configuration in which it was
// looked for. If its id is known, the node comes back without its log: its vote,
// which it could give against what it promised, is taken away first. After ErrChanged
// the joining node asks again, and goes on where this ended.
func (c *Cluster) enter(ctx context.Context, on configuration, id raft.ServerID, addr raft.ServerAddress) error {
	if on.has(id) {
		if err := c.expel(ctx, on, id); err != nil {
			return err
		}
		c.log.Warn("cluster: a member comes back without its data", zap.String("node", string(id)))
		if on = c.configuration(); on.has(id) {
			return fault.ErrChanged
		}
	}
	// Its old record must be gone first: its nonce would refuse the new directory.
	res := c.command(ctx, spool.KindDropMember, &pb.DropMember{
		Id: string(id), Admin: &pb.Admin{Who: "cluster", Why: "joins anew", Node: c.id.Node},
	})
	if res == nil || res.Code != pb.Code_OK && res.Code != pb.Code_MISSING {
		return fmt.Errorf("%w: the record of the former node %s is still there", fault.ErrUnavailable, id)
	}
	c.trans.Acks.Forget(string(id))
	return c.reconfigure(ctx, on, func(index uint64) raft.IndexFuture {
		return c.raft.AddNonvoter(id, addr, index, changeTime)
	})
}

// addresses lists where the members are.
func (c *Cluster) addresses() map[string]string {
	all := map[string]string{}
	for _, s := range c.book.Servers() {
		if addr, err := c.book.Address(string(s.ID)); err == nil {
			all[string(s.ID)] = addr
		}
	}
	return all
}
