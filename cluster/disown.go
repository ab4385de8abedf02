package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"relay/cluster/internal/wire"
)

// A node that was removed and is started again, or did not hear of its removal,
// knows itself a member for ever: nobody talks to those who are none. So a node
// that hears no leader asks at the door, where strangers are heard, too.

// It gives up where a leader has said no twice in a row.

const (
	askMember    = "cluster/member"
	asksMember   = "member" // joinRequest.Asks
	kindRemoved  = "removed"
	kindKnown    = "known"
	kindRenew    = "renew" // a member, but its certificate is not the one on record
	disownTime   = 2 * time.Second
	disownRounds = 2 // answers in a row that count
)

// answerMember is the leader's word on whether a node is a member.
func (c *Cluster) answerMember(_ context.Context, _ string, node []byte) ([]byte, error) {
	if c.leaderTerm.Load() == nil {
		return nil, errNotLeader
	}
	reply := joinReply{Kind: kindKnown}
	if !c.book.member(string(node)) {
		reply.Kind = kindRemoved
	}
	return json.Marshal(reply)
}

// membership answers at the door whether a node is a member. What no leader
// vouches for is no answer.
func (c *Cluster) membership(ctx context.Context, node string) joinReply {
	ctx, cancel := context.WithTimeout(ctx, disownTime)
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

// disowned asks all members that this node knew whether it still is one. It is
// true where at least one cluster leader says no and none says yes. The door is
// believed because its certificate is of our own CA.
func (c *Cluster) disowned(ctx context.Context) bool {
	ca, err := parseCert([]byte(c.id.credential().ca))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, disownTime)
	defer cancel()
	answers := make(chan string)
	doors := c.book.doors()
	for _, addr := range doors {
		c.goRun(func() { answers <- c.askDoor(ctx, addr, sha256.Sum256(ca.Raw)) })
	}
	removed, known := false, false
	for range doors {
		switch <-answers {
		case kindRemoved:
			removed = true
		case kindKnown, kindRenew:
			known = true
		}
	}
	return removed && !known
}

// askDoor returns the kind of answer, empty where there is none. The door answers
// by the certificate that this node shows.
func (c *Cluster) askDoor(ctx context.Context, addr string, fingerprint [32]byte) string {
	reply, err := c.knockAs(ctx, addr, fingerprint, joinRequest{Asks: asksMember, Node: c.id.Node})
	if err != nil {
		return ""
	}
	if reply.Kind == kindRenew {
		if err := c.renewAtDoor(ctx, addr, fingerprint); err != nil {
			c.log.Error("cluster: this node's certificate is not the one on record, and is not renewed",
				zap.String("door", addr), zap.Error(err))
		}
	}
	return reply.Kind
}

// knockAs puts a question to a door, and shows our certificate there.
func (c *Cluster) knockAs(ctx context.Context, addr string, fingerprint [32]byte, req joinRequest) (joinReply, error) {
	var reply joinReply
	me, err := c.id.wire()
	if err != nil {
		return reply, err
	}
	conn, _, err := wire.DialJoin(ctx, addr, fingerprint, &me.Cert, c.o.Dial)
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(disownTime))
	if err := writeJSON(conn, req); err != nil {
		return reply, err
	}
	return reply, readJSON(conn, &reply)
}

// renewAtDoor gets a certificate where nobody talks to us by the one we have.
func (c *Cluster) renewAtDoor(ctx context.Context, addr string, fingerprint [32]byte) error {
	key, csr, err := newRequest(c.id.Node)
	if err != nil {
		return err
	}
	reply, err := c.knockAs(ctx, addr, fingerprint, joinRequest{Asks: asksCertify, CSR: csr})
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
		ErrRemoved, c.o.Dir)
	c.log.Error("cluster: this node was removed", zap.String("node", c.id.Node))
	c.fatal(err)
}
