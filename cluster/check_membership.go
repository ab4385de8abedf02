package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
)

// A node that was removed and is started again, or did not hear of its removal,
// knows itself a member for ever: nobody talks to those who are none. So a node
// that hears no leader asks at the join server, where strangers are heard, too.

// It gives up where a leader has said no twice in a row.

const (
	askMember      = "cluster/member"
	asksMember     = "member" // joinRequest.Asks
	kindRemoved    = "removed"
	kindKnown      = "known"
	kindRenew      = "renew" // a member, but its certificate is not the one on record
	membershipTime = 2 * time.Second
)

// answerMember is the leader's word on whether a node is a member.
func (c *Cluster) answerMember(_ context.Context, _ string, node []byte) ([]byte, error) {
	if c.leaderTerm.Load() == nil {
		return nil, fault.ErrNotLeader
	}
	reply := joinReply{Kind: kindKnown}
	if !c.book.Member(string(node)) {
		reply.Kind = kindRemoved
	}
	return json.Marshal(reply)
}

// membership answers at the join server whether a node is a member. It answers nothing
// that no leader vouches for.
func (c *Cluster) membership(ctx context.Context, node string) joinReply {
	ctx, cancel := context.WithTimeout(ctx, membershipTime)
	defer cancel()
	var reply joinReply
	b, err := c.askLeader(ctx, askMember, []byte(node))
	if err == nil {
		err = json.Unmarshal(b, &reply)
	}
	if err != nil {
		return joinReply{Refused: words(err)}
	}
	return reply
}

// lostMembership asks all members that this node knew whether it still is one. It is
// true where at least one cluster leader says no and none says yes. The join server is
// believed because its certificate is of our own CA.
func (c *Cluster) lostMembership(ctx context.Context) bool {
	ca, err := pki.ParseCert([]byte(c.id.Credential().CA))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, membershipTime)
	defer cancel()
	answers := make(chan string)
	servers := c.book.JoinServers()
	for _, addr := range servers {
		c.goRun(func() { answers <- c.askJoinServer(ctx, addr, sha256.Sum256(ca.Raw)) })
	}
	removed, known := false, false
	for range servers {
		switch <-answers {
		case kindRemoved:
			removed = true
		case kindKnown, kindRenew:
			known = true
		}
	}
	return removed && !known
}

// askJoinServer returns the kind of answer, empty where there is none. The join server answers
// by the certificate that this node shows.
func (c *Cluster) askJoinServer(ctx context.Context, addr string, fingerprint [32]byte) string {
	reply, err := c.askAs(ctx, addr, fingerprint, joinRequest{Asks: asksMember, Node: c.id.Node})
	if err != nil {
		return ""
	}
	if reply.Kind == kindRenew {
		if err := c.renewAtJoinServer(ctx, addr, fingerprint); err != nil {
			c.log.Error("cluster: this node's certificate is not the one on record, and is not renewed",
				zap.String("door", addr), zap.Error(err))
		}
	}
	return reply.Kind
}

// askAs puts a question to a join server, and shows our certificate there.
func (c *Cluster) askAs(ctx context.Context, addr string, fingerprint [32]byte, req joinRequest) (joinReply, error) {
	var reply joinReply
	me, err := c.id.Wire()
	if err != nil {
		return reply, err
	}
	conn, _, err := wire.DialJoin(ctx, addr, fingerprint, &me.Cert, c.o.Dial)
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(membershipTime))
	if err := writeJSON(conn, req); err != nil {
		return reply, err
	}
	return reply, readJSON(conn, &reply)
}

// renewAtJoinServer gets a certificate where nobody talks to us by the one we have.
func (c *Cluster) renewAtJoinServer(ctx context.Context, addr string, fingerprint [32]byte) error {
	key, csr, err := pki.NewRequest(c.id.Node)
	if err != nil {
		return err
	}
	reply, err := c.askAs(ctx, addr, fingerprint, joinRequest{Asks: asksCertify, CSR: csr})
	if err != nil {
		return err
	}
	if reply.Refused != "" {
		return errors.New(reply.Refused)
	}
	return c.certified(key, certifyReply{Cert: reply.Cert, CA: reply.CA, Next: reply.Next, Cross: reply.Cross})
}

// leave tells the owner that this node is no member any more.
func (c *Cluster) leave() {
	err := fmt.Errorf("%w: to bring it back, move the data directory %s away and join it anew with 'relayd join' and a "+
		"token of 'relayctl node token'",
		fault.ErrRemoved, c.o.Dir)
	c.log.Error("cluster: this node was removed", zap.String("node", c.id.Node))
	c.fatal(err)
}
