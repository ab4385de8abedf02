package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/node/inbound"
	"relay/node/operator"
	"relay/node/operator/edit"
	"relay/node/replica"
)

// buildOperator connects the admin ports with the parts of this node.
func (n *Node) buildOperator() {
	n.metrics = newMetrics(n)
	n.operator = operator.New(operator.Config{
		Node: n.conf.Node.ID, Hostname: n.conf.Node.Hostname, Replica: n.cluster, Members: n.cluster, Log: n.log,
		Now: n.cluster.Now, HashPassword: n.options.HashPassword, Active: n.queue.Active, Why: n.queue.Why, Site: n.limits.Of,
		Submit: n.submit,
		Full:   n.storage.nowFull, NodeStats: n.vitals,
	})
	n.examiner = &examiner{n: n}
	for _, method := range operator.Methods {
		n.cluster.Handle(method, func(ctx context.Context, from string, req []byte) ([]byte, error) {
			return n.operator.Answer(ctx, from, method, req)
		})
	}
}

// vitals is what only this node knows of itself.
func (n *Node) vitals() operator.NodeStats {
	v := operator.NodeStats{
		Uptime: int64(time.Since(n.started).Seconds()), DiskFree: n.storage.free.Load(), DiskTotal: n.storage.total.Load(),
		Full:    n.storage.full.Load() || n.storage.laden.Load(),
		Version: n.options.Version, Troubles: n.acme.Troubles(n.cluster.Now()),
	}
	refusing := n.drain.refuses()
	v.Refusing, v.Served = &refusing, n.served()
	if slow := n.cluster.Trouble(); slow != "" {
		v.Advice = append(v.Advice, slow)
	}
	if late := n.cluster.CertificateTrouble(); late != "" {
		v.Troubles = append(v.Troubles, late)
	}
	for _, r := range n.outbound.RefusedLogins() {
		v.Troubles = append(v.Troubles, fmt.Sprintf("route %s: %s refused node %s the login as %s, and its mail waits (%s): "+
			"give the right password with 'relayctl route set', or let it be tried again with 'relayctl queue retry'",
			r.Route, r.Host, n.conf.Node.ID, r.User, r.Reply))
	}
	for _, l := range n.listeners {
		if l.smtp != nil {
			v.SMTP += int(l.smtp.Stats().Active.Load())
		}
		if l.pop3 != nil {
			v.POP3 += int(l.pop3.Stats().LoggedIn.Load())
		}
	}
	return v
}

// submit takes a message in from the admin API, as a trusted client's.
func (n *Node) submit(
	ctx context.Context, sender string, recipients []string, message io.Reader, by admin.By,
) (*admin.Receipt, error) {
	if err := n.takes(); err != nil {
		return nil, admin.NoQuorum(err.Error())
	}
	sender, err := n.wholeSender(sender)
	if err != nil {
		return nil, err
	}
	client := &pb.Client{Node: n.conf.Node.ID, Address: "local", Helo: "admin", User: by.Who, Protocol: "HTTP"}
	mail := n.inbound.NewLocal(sender, client, "sent by "+by.Who)
	receipt := &admin.Receipt{
		Node: n.conf.Node.ID, Dialogue: []string{fmt.Sprintf("MAIL FROM:<%s>: 250 2.1.0 Ok", sender)},
	}
	accepted := 0
	for _, address := range recipients {
		one, err := takeRecipient(ctx, mail, address)
		if err != nil {
			return nil, err
		}
		if one.Accepted {
			accepted++
		}
		receipt.Recipients = append(receipt.Recipients, one)
		receipt.Dialogue = append(receipt.Dialogue, fmt.Sprintf("RCPT TO:<%s>: %s", address, one.Reply))
	}
	if accepted == 0 {
		return receipt, admin.Conflict("all recipients were refused: "+receipt.Recipients[0].Reply, "")
	}
	counted := &counter{r: message}
	id, err := mail.Accept(ctx, counted)
	if err != nil {
		n.log.Warn("message from the admin API not accepted", zap.Error(err))
		return nil, edit.ProposalError(err)
	}
	receipt.ID, receipt.Size = id, counted.n
	_ = n.cluster.View(func(v spool.View) error {
		if parsed, err := ulid.ParseStrict(id); err == nil {
			if m, ok, err := v.Message(parsed); ok && err == nil {
				receipt.Size = m.Size
			}
		}
		return nil
	})
	receipt.Dialogue = append(receipt.Dialogue, "DATA: 250 2.0.0 Ok: queued as "+id)
	return receipt, nil
}

// wholeSender completes a bare sender, as MAIL does for trusted clients.
func (n *Node) wholeSender(sender string) (string, error) {
	if sender == "" {
		return "", nil
	}
	whole := sender
	err := n.cluster.View(func(v spool.View) (err error) {
		whole, err = directory.Qualify(v, sender)
		return err
	})
	if errors.Is(err, directory.ErrNoDomain) {
		err = admin.Invalid("the sender %q has no domain, and there is no default domain: give the whole address", sender)
	}
	return whole, err
}

// takeRecipient is RCPT for the admin API. It fails where nobody can tell whether
// the recipient is there.
func takeRecipient(ctx context.Context, mail *inbound.Local, address string) (admin.ReceiptRecipient, error) {
	err := mail.Rcpt(ctx, address)
	switch {
	case errors.Is(err, replica.ErrUnsure):
		return admin.ReceiptRecipient{}, admin.NoQuorum(err.Error())
	case err != nil:
		return admin.ReceiptRecipient{Address: address, Reply: err.Error()}, nil
	}
	return admin.ReceiptRecipient{Address: address, Accepted: true, Reply: "250 2.1.5 Ok"}, nil
}

// counter counts what it hands on.
type counter struct {
	r io.Reader
	n uint64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += uint64(n)
	return n, err
}
