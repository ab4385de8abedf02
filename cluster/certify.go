package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// A node's certificate lives CertLife, and the node has it renewed. The leader
// signs, and what it signed is in the state before it is handed out; a node that
// did not get the answer has the certificate before, which counts for as long.

// A certificate lives 90 days; at two thirds the node asks the leader
// (cluster/certify), which commits Certify before it answers; the identity file is
// written, then the port's pointer swapped. Answers get lost, so Certify names the
// certificate that the node shows, and that one stays on record; the join server renews by it
// for 400 days. Live connections of a replaced one end after an hour.

const (
	askCertify    = "cluster/certify"
	askCertifyFor = "cluster/certify-for" // a join server's question for a node that has lost touch
	asksCertify   = "certify"             // joinRequest.Asks

	joinServerGrace = 400 * 24 * time.Hour // how long the join server renews by the certificate before this one
	retryFirst      = time.Minute          // between tries, then longer
	retryLast       = time.Hour
)

type certifyRequest struct {
	CSR []byte `json:"csr"`
	// With askCertifyFor, what the node showed at the join server:
	Node   string `json:"node,omitempty"`
	Serial []byte `json:"serial,omitempty"`
	Key    []byte `json:"key,omitempty"`
	CA     []byte `json:"ca,omitempty"`
}

type certifyReply struct {
	Cert  string `json:"cert"`
	CA    string `json:"ca"`
	Next  string `json:"next,omitempty"`
	Cross string `json:"cross,omitempty"`
}

// renewer keeps this node's certificate, and the CAs that it trusts, as the
// state wants them. It belongs to one goroutine.
type renewer struct {
	c      *Cluster
	wait   time.Duration // after a failure, grows
	next   time.Time     // no try before
	spread []byte        // the CA for whose sake next was put off
}

// certificates renews the certificate and follows rotations of the CA.
func (c *Cluster) certificates(ctx context.Context) {
	r := &renewer{c: c}
	tick := tuning.NewBeat(min(time.Second, c.t.CertLife/20))
	defer tick.Stop()
	for {
		if c.At(2) {
			r.look(ctx)
		}
		select {
		case <-tick.Next():
		case <-c.newCA:
		case <-ctx.Done():
			return
		}
	}
}

// look does what is due.
func (r *renewer) look(ctx context.Context) {
	record, err := r.c.record()
	if err != nil {
		return
	}
	if err := r.c.followCA(record); err != nil {
		r.c.log.Error("cluster: the identity file can't be written", zap.Error(err))
		return
	}
	r.say(record)
	if !r.due(record, r.c.self.Load()) || time.Now().Before(r.next) {
		return
	}
	if err := r.c.renewCertificate(ctx); err != nil {
		r.wait = min(max(2*r.wait, min(retryFirst, r.c.t.CertLife/100)), retryLast)
		r.next = time.Now().Add(r.wait/2 + rand.N(r.wait))
		r.c.log.Warn("cluster: this node's certificate is not renewed yet", zap.Duration("again", r.wait), zap.Error(err))
		return
	}
	r.wait, r.next = 0, time.Time{}
	r.say(record)
}

// say has the renewals of the session tell how far this node is with a rotation.
func (r *renewer) say(record *pb.Cluster) {
	self := r.c.self.Load()
	what := spool.SaysOfCA(record, self.Serial, self.CA[:])
	r.c.says.Store(&what)
}

// due says whether the certificate is to be renewed: at two thirds of its life,
// where it lives longer than one should, and when another CA signs now. Then the
// nodes take turns, more or less. A certificate is recorded at its node's member record,
// so none is due before the first registration is applied here: it would be refused, and
// tried again only after retryFirst.
func (r *renewer) due(record *pb.Cluster, self *wire.Peer) bool {
	if r.c.roster.Member(r.c.id.Node) == nil {
		return false
	}
	if signer := pki.Fingerprint(pki.Signing(record).Cert); !bytes.Equal(self.CA[:], signer) {
		if !bytes.Equal(r.spread, signer) {
			turns := r.c.t.Renew * time.Duration(max(1, len(r.c.book.Servers())))
			r.spread, r.next = signer, time.Now().Add(rand.N(turns))
		}
		return true
	}
	left := self.NotAfter.Sub(r.c.Now())
	return left < r.c.t.CertLife/3 || left > r.c.t.CertLife*4/3
}

// record reads the cluster's record.
func (c *Cluster) record() (record *pb.Cluster, err error) {
	err = c.store.View(func(v spool.View) error {
		var there bool
		if record, there, err = v.Cluster(); err == nil && !there {
			err = fmt.Errorf("%w: the cluster is just being made", fault.ErrUnavailable)
		}
		return err
	})
	return record, err
}

// followCA makes the node trust and show the CAs that the state names: in its
// file first, then in its handshakes. It never lets go of the CA that has signed
// its own certificate.
func (c *Cluster) followCA(record *pb.Cluster) error {
	c.adopting.Lock()
	defer c.adopting.Unlock()
	have := c.id.Credential()
	want := have
	want.CA, want.Next, want.Cross = string(record.CaCert), string(record.NextCert), string(record.CrossCert)
	if want == have {
		return nil
	}
	return c.adopt(want)
}

// adopt takes a new credential: nothing shows or trusts it before it is on the
// disk. The caller holds c.adopting.
func (c *Cluster) adopt(want pki.Credential) error {
	me, err := want.Wire(c.id.CertName(), c.id.Node)
	if err != nil {
		return err
	}
	self, err := me.Self()
	if err != nil {
		return err
	}
	before := c.id.Credential()
	c.id.Change(want)
	if err := c.id.Save(c.o.Dir); err != nil {
		c.id.Change(before)
		return err
	}
	c.self.Store(&self)
	c.port.SetIdentity(me)
	return nil
}

// CertificateEnds is when this node's certificate ends. It renews itself long
// before; links of a member whose certificate has ended hold nevertheless.
func (c *Cluster) CertificateEnds() time.Time { return c.self.Load().NotAfter }

// CertificateTrouble says in words that the certificate should have been renewed
// long ago; empty: all is well.
func (c *Cluster) CertificateTrouble() string {
	self := c.self.Load()
	if left := self.NotAfter.Sub(c.Now()); !c.At(2) || left > c.t.CertLife/6 {
		return ""
	}
	return fmt.Sprintf("the cluster certificate of node %s ends at %s and is not renewed: see the log of that node "+
		"for the cause",
		c.id.Node, self.NotAfter.UTC().Format(time.RFC3339))
}

// renewCertificate gets a certificate for a new key.
func (c *Cluster) renewCertificate(ctx context.Context) error {
	key, csr, err := pki.NewRequest(c.id.Node)
	if err != nil {
		return err
	}
	body, err := json.Marshal(certifyRequest{CSR: csr})
	if err != nil {
		return err
	}
	b, err := c.askLeader(ctx, askCertify, body)
	if err != nil {
		return err
	}
	var reply certifyReply
	if err := json.Unmarshal(b, &reply); err != nil {
		return err
	}
	return c.certified(key, reply)
}

// certified takes the answer to a request.
func (c *Cluster) certified(key []byte, reply certifyReply) error {
	c.adopting.Lock()
	defer c.adopting.Unlock()
	err := c.adopt(pki.Credential{CA: reply.CA, Next: reply.Next, Cross: reply.Cross, Cert: reply.Cert, Key: string(key)})
	if err == nil {
		self := c.self.Load()
		c.log.Info("cluster: this node has a new certificate", zap.Time("until", self.NotAfter))
	}
	return err
}

// answerCertify is the leader's part: it signs for the node that asks, by the
// certificate of its connection.
func (c *Cluster) answerCertify(ctx context.Context, _ string, body []byte) ([]byte, error) {
	var req certifyRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, err
	}
	shown := propose.ShownOf(ctx)
	if shown.Node == "" { // we ask ourselves
		shown = *c.self.Load()
	}
	return c.certify(ctx, shown, req.CSR)
}

// answerCertifyFor signs for a node that showed its certificate at a join server.
func (c *Cluster) answerCertifyFor(ctx context.Context, _ string, body []byte) ([]byte, error) {
	var req certifyRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, err
	}
	shown := wire.Peer{Node: req.Node, Serial: req.Serial}
	copy(shown.Key[:], req.Key)
	copy(shown.CA[:], req.CA)
	m := c.roster.Member(req.Node)
	young := c.Now().Before(time.UnixMilli(m.GetIssuedMs()).Add(joinServerGrace))
	if !pki.IsOf(shown, m.GetSerial(), m.GetKey()) && !(young && pki.IsOf(shown, m.GetOldSerial(), m.GetOldKey())) {
		return nil, fmt.Errorf("%w: the certificate of node %s is not on record", fault.ErrToken, req.Node)
	}
	return c.certify(ctx, shown, req.CSR)
}

// certify signs a key of a member, and records that before it answers.
func (c *Cluster) certify(ctx context.Context, shown wire.Peer, csrDER []byte) ([]byte, error) {
	switch {
	case c.leaderTerm.Load() == nil:
		return nil, fault.ErrNotLeader
	case !c.At(2):
		return nil, errors.New("cluster: certificates are renewed from cluster version 2 on")
	case !c.book.Member(shown.Node):
		return nil, fmt.Errorf("%w: node %s is no member", fault.ErrToken, shown.Node)
	}
	csr, err := pki.ParseRequest(csrDER)
	if err != nil {
		return nil, err
	}
	record, err := c.record()
	if err != nil {
		return nil, err
	}
	cert, err := c.sign(record, csr, shown.Node)
	if err != nil {
		return nil, err
	}
	if err := c.putOnRecord(ctx, shown, cert, pki.Fingerprint(pki.Signing(record).Cert)); err != nil {
		return nil, err
	}
	return json.Marshal(certifyReply{
		Cert: string(cert), CA: string(record.CaCert), Next: string(record.NextCert), Cross: string(record.CrossCert),
	})
}

// sign makes a certificate of a node by the CA whose turn it is.
func (c *Cluster) sign(record *pb.Cluster, csr *x509.CertificateRequest, node string) ([]byte, error) {
	pair := pki.Signing(record)
	ca, err := pki.OpenAuthority(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	s := pki.Subject{Cluster: c.id.CertName(), Node: node, Now: c.Now(), Life: pki.LongLife, Index: c.store.Applied()}
	if c.At(2) {
		s.Life = c.t.CertLife
	}
	return ca.Sign(csr, s)
}

// putOnRecord records a certificate beside the one that the node has.
func (c *Cluster) putOnRecord(ctx context.Context, shown wire.Peer, certPEM, ca []byte) error {
	leaf, err := pki.ParseCert(certPEM)
	if err != nil {
		return err
	}
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	f, err := spool.Encode(spool.KindCertify, &pb.Certify{
		Node: shown.Node, Serial: leaf.SerialNumber.FillBytes(make([]byte, pki.SerialSize)), Key: key[:], Ca: ca,
		IssuedMs: c.Now().UnixMilli(), Old: shown.Serial, OldKey: shown.Key[:],
	})
	if err != nil {
		return err
	}
	res, err := c.propose(ctx, f)
	if err != nil {
		return err
	}
	if res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		return fmt.Errorf("cluster: the certificate was refused: %s", res.Text)
	}
	return nil
}

// withCertificate writes into a Register by which certificate its node was let
// in. The node's own word on that is not believed.
func (c *Cluster) withCertificate(f spool.Frame, shown *wire.Peer) spool.Frame {
	if f.Kind() != spool.KindRegister || shown == nil || len(shown.Serial) == 0 || !c.At(2) {
		return f
	}
	cmd, err := spool.Decode(f)
	if err != nil {
		return f // the batcher refuses it
	}
	h, ok := cmd.Header.(*pb.Register)
	if !ok || h.GetMember().GetId() != shown.Node {
		return f
	}
	h.Member.Serial, h.Member.Key, h.Member.Ca = shown.Serial, shown.Key[:], shown.CA[:]
	if f, err := spool.Encode(spool.KindRegister, h); err == nil {
		return f
	}
	return f
}
