package spool

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// apply decodes a frame and carries it out.
func (s *state) apply(b Batch, index uint64, f Frame) (*pb.Result, error) {
	c, err := Decode(f)
	if err != nil {
		return nil, fmt.Errorf("spool: entry %d: %w", index, err)
	}
	if c.Kind != KindClock { // which compares with the clock as it is
		s.tick(c.At)
	}
	t := &tx{state: s, b: b, index: index}
	s.sums.begin(c, index)
	res := t.dispatch(c)
	if t.err != nil {
		return nil, fmt.Errorf("spool: apply %s at %d: %w", c.Kind, index, t.err)
	}
	s.sums.end(res)
	if c.Kind == KindRaise && res.GetCode() == pb.Code_OK {
		s.sums.start(index)
	}
	return res, nil
}

func (t *tx) dispatch(c Command) *pb.Result {
	switch h := c.Header.(type) {
	case *pb.Accept:
		return t.accept(h, c.Body)
	case *pb.Import:
		return t.importOld(h, c.Body)
	case *pb.Chunk:
		return t.chunk(h, c.Body)
	case *pb.Abort:
		return t.abort(h)
	case *pb.Discard:
		return t.discard(h)
	case *pb.Settle:
		return t.settle(h)
	case *pb.Register:
		return t.register(h)
	case *pb.Renew:
		return t.renew(h)
	case *pb.Expire:
		return t.expire(h)
	case *pb.TakeLock:
		return t.takeLock(h)
	case *pb.Unlock:
		return t.unlock(h)
	case *pb.Remove:
		return t.remove(h)
	case *pb.PutCluster:
		return t.putCluster(h)
	case *pb.Raise:
		return t.raise(h)
	case *pb.Clock:
		return t.jump(h)
	case *pb.Generation:
		return t.generation(h)
	case *pb.Certify:
		return t.certify(h)
	case *pb.Tally:
		return t.countFailures(h)
	case *pb.Greet:
		return t.greet(h)
	case *pb.PutCert:
		return t.putCert(h)
	case *pb.PutPolicy:
		return t.putPolicy(h)
	case *pb.PutTls:
		return t.putTLS(h)
	case *pb.DropTls:
		return t.dropTLS(h)
	case *pb.Sweep:
		return t.sweep(h)
	case *pb.Mark:
		return t.ok()
	default:
		return t.administer(c)
	}
}

// administer carries out an operator's command: once a request, with a line in
// the audit log.
func (t *tx) administer(c Command) *pb.Result {
	adm := &pb.Admin{}
	if h, ok := c.Header.(interface{ GetAdmin() *pb.Admin }); ok && h.GetAdmin() != nil {
		adm = h.GetAdmin()
	} else if h, ok := c.Header.(*pb.UseToken); ok {
		adm.Request = h.Request
	}
	if len(adm.Request) > 0 {
		var seen pb.Seen
		if t.read(key(kRequest, string(adm.Request)), &seen) {
			return proto.CloneOf(seen.Result)
		}
	}
	res := t.directory(c.Header)
	// A command that was judged by an old state may be asked again by a newer one.
	if len(adm.Request) > 0 && res.Code != pb.Code_STALE {
		t.write(key(kRequest, string(adm.Request)), &pb.Seen{AtMs: t.clock, Result: res})
	}
	if res.Code == pb.Code_OK {
		t.audit(adm, t.describe(c.Header))
	}
	return res
}

func (t *tx) directory(h proto.Message) *pb.Result {
	switch h := h.(type) {
	case *pb.PutAccount:
		return t.putAccount(h)
	case *pb.DropAccount:
		return t.dropAccount(h)
	case *pb.PutDomain:
		return t.putDomain(h)
	case *pb.DropDomain:
		return t.dropDomain(h)
	case *pb.PutAlias:
		return t.putAlias(h)
	case *pb.DropAlias:
		return t.dropRecord(key(kAlias, h.Address), "alias", h.Address)
	case *pb.PutRoute:
		return t.putRoute(h)
	case *pb.DropRoute:
		return t.dropRoute(h)
	case *pb.PutRecipients:
		return t.putRecipients(h)
	case *pb.PutSettings:
		return t.putSettings(h)
	case *pb.PutRule:
		return t.putRule(h)
	case *pb.DropRule:
		return t.dropRule(h)
	case *pb.PutSuppressed:
		return t.putSuppressed(h)
	case *pb.DropSuppressed:
		return t.dropSuppressed(h)
	case *pb.Manage:
		return t.manage(h)
	case *pb.Adopt:
		return t.adopt(h)
	case *pb.Drain:
		return t.drain(h)
	case *pb.BreakLock:
		return t.breakLock(h)
	case *pb.PutToken:
		return t.putToken(h)
	case *pb.UseToken:
		return t.useToken(h)
	case *pb.DropMember:
		return t.dropMember(h)
	case *pb.PutSecret:
		return t.putSecret(h)
	case *pb.Reseal:
		return t.reseal(h)
	case *pb.PutCa:
		return t.putCa(h)
	case *pb.PutDkim:
		return t.putDkim(h)
	case *pb.DropDkim:
		return t.dropDkim(h)
	}
	// Decode knows the kind, so this is a kind without an Apply: a fault of
	// this build, and skipping it would let nodes differ.
	t.fail(fmt.Errorf("no apply for %T", h))
	return nil
}

func (t *tx) putToken(h *pb.PutToken) *pb.Result {
	if len(h.Token.GetHash()) == 0 || h.Token.GetUses() == 0 {
		return t.refuse(pb.Code_INVALID, "a join token needs a hash and at least one use")
	}
	t.write(key(kJoinToken, string(h.Token.GetHash())), h.Token)
	return t.ok()
}
