package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// The join server is the one service of the cluster port that is open to those who have
// no certificate. Nothing is told there without a valid join token, but to a node
// about itself, by the certificate that it shows.

// The join server has a lobby of its own (32, 8 from one address). There the token is judged
// first; without a good one everybody gets the same answer, the log gets nothing, and
// only a node that shows its certificate is told whether it is a member. Keys other
// than P-256 are refused before any signature is checked. Lines about strangers: one a
// minute, with the number of the others.

const (
	joinClients     = 32              // who have not said yet what they want
	joinPerAddress  = 8               // of one address
	joinRequestTime = 5 * time.Second // for saying it
	joinAtOnce      = 16              // requests that are judged at once
)

// joinServer serves the join connections until the port closes.
func (c *Cluster) joinServer(ctx context.Context) {
	l := c.port.Listen(wire.Join)
	lobby := wire.NewLobby(joinClients, joinPerAddress, 0)
	slots := make(chan struct{}, joinAtOnce)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		guest := lobby.Enter(conn, joinRequestTime, joinRequestTime)
		c.goRun(func() {
			defer conn.Close()
			var req joinRequest
			err := readJSON(guest, &req)
			lobby.Leave(guest)
			if err != nil {
				return
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				c.serveJoin(ctx, conn, req)
			default:
			}
		})
	}
}

// serveJoin answers one request.
func (c *Cluster) serveJoin(ctx context.Context, conn net.Conn, req joinRequest) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	_ = conn.SetDeadline(time.Now().Add(joinTime))
	shown := wire.Peer{}
	if w, ok := conn.(*wire.Conn); ok {
		shown = w.Shown
	}
	switch {
	case req.Asks == "":
		_ = writeJSON(conn, c.letIn(ctx, conn.RemoteAddr(), req))
	case shown.Node == "":
	case req.Asks == asksMember:
		reply := c.membership(ctx, shown.Node)
		if err := unlessNewer(c.roster.Judge(shown)); reply.Kind == kindKnown && err != nil {
			reply = joinReply{Kind: kindRenew, Refused: err.Error()}
		}
		_ = writeJSON(conn, reply)
	case req.Asks == asksCertify:
		_ = writeJSON(conn, c.certifyOutdated(ctx, shown, req.CSR))
	}
}

// certifyOutdated has the certificate of a member renewed whose present one it did
// not get: it shows the one before.
func (c *Cluster) certifyOutdated(ctx context.Context, shown wire.Peer, csr []byte) (reply joinReply) {
	body, err := json.Marshal(certifyRequest{
		CSR: csr, Node: shown.Node, Serial: shown.Serial, Key: shown.Key[:], CA: shown.CA[:],
	})
	if err == nil {
		body, err = c.askLeader(ctx, askCertifyFor, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &reply) // the fields have the names of a certifyReply
	}
	if err != nil {
		return joinReply{Refused: words(err)}
	}
	return reply
}

// letIn has the leader judge a request to join.
func (c *Cluster) letIn(ctx context.Context, remote net.Addr, req joinRequest) (reply joinReply) {
	body, err := json.Marshal(req)
	if err == nil {
		body, err = c.askLeader(ctx, askJoin, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &reply)
	}
	if err != nil {
		reply = c.refusal(err, req)
		c.refused.Warn(c.log, "cluster: a node was not let in", zap.Stringer("remote", remote), zap.Error(err))
		return reply
	}
	c.log.Info("cluster: a node joined", zap.Stringer("remote", remote), zap.String("node", req.Node))
	return reply
}

// refusal puts an error into an answer. The leader says anything but ErrToken
// only to those who have a token; whether it could be asked at all is told only
// to them, too.
func (c *Cluster) refusal(err error, req joinRequest) joinReply {
	r := joinReply{Refused: words(err)}
	switch {
	case errors.Is(err, fault.ErrToken):
		r.Kind = kindToken
	case errors.Is(err, fault.ErrMember):
		r.Kind = kindMember
	case c.checkToken(req) != nil:
		r.Refused = "the join token can't be judged at the moment"
	}
	return r
}

// words is what an error says, without the name of the node that said it.
func words(err error) string {
	var remote *fault.RemoteError
	if errors.As(err, &remote) {
		return remote.Text
	}
	return err.Error()
}

var (
	errNoToken  = fmt.Errorf("%w: it is unknown or used up: make one with 'relayctl node token'", fault.ErrToken)
	errOldToken = fmt.Errorf("%w: it has expired: make one with 'relayctl node token'", fault.ErrToken)
)

// tokenOf reads the secret of a request.
func tokenOf(req joinRequest) (token pki.Token, err error) {
	if len(req.Secret) != pki.SecretSize || len(req.Request) == 0 {
		return token, errNoToken
	}
	copy(token.Secret[:], req.Secret)
	return token, nil
}

// checkToken says whether a request has a token that the state here knows, or
// used one up in an earlier try.
func (c *Cluster) checkToken(req joinRequest) error {
	token, err := tokenOf(req)
	if err != nil {
		return err
	}
	return c.store.View(func(v spool.View) error {
		one, there, err := v.JoinToken(token.Hash())
		switch {
		case err != nil:
			return err
		case there && one.ExpiresMs <= c.roster.Now().UnixMilli():
			return errOldToken
		case there:
			return nil
		}
		if res, used, err := v.Answered(token.Request(req.Request)); err != nil || used && res.GetCode() == pb.Code_OK {
			return err
		}
		return errNoToken
	})
}

// admit is the leader's part of a join. The token is judged before anything else
// of the request is looked at.
func (c *Cluster) admit(ctx context.Context, _ string, body []byte) ([]byte, error) {
	if c.leaderTerm.Load() == nil {
		return nil, fault.ErrNotLeader
	}
	var req joinRequest
	if json.Unmarshal(body, &req) != nil {
		return nil, errNoToken
	}
	if err := c.checkToken(req); err != nil {
		return nil, err
	}
	if why := c.unfit(req); why != "" {
		return json.Marshal(joinReply{Refused: why, Kind: kindVersion})
	}
	if err := datadir.CheckNames(req.Node, req.Advertise); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.ErrToken, err)
	}
	csr, err := pki.ParseRequest(req.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate request: %w", fault.ErrToken, err)
	}
	if err := c.awaitDeath(ctx, req.Node); err != nil {
		return nil, err
	}
	return c.letJoin(ctx, req, csr)
}

// unfit says why a build can't follow this cluster; empty: it can.
func (c *Cluster) unfit(req joinRequest) string {
	low, high, now := max(1, req.MinVersion), max(1, req.MaxVersion), c.Version()
	if now == 0 || low <= now && now <= high {
		return ""
	}
	return fmt.Sprintf("the cluster version is %d, and the relayd of %s knows %d to %d: install the relayd that "+
		"the members run",
		now, req.Node, low, high)
}

// letJoin makes a node a member.
func (c *Cluster) letJoin(ctx context.Context, req joinRequest, csr *x509.CertificateRequest) ([]byte, error) {
	c.joining.Lock()
	defer c.joining.Unlock()
	on := c.configuration()
	record, err := c.unlessLive(req.Node)
	if err != nil {
		return nil, err
	}
	if err := c.unlessOccupied(on, raft.ServerID(req.Node), req.Advertise); err != nil {
		return nil, err // before the token is used
	}
	cert, err := c.sign(record, csr, req.Node)
	if err != nil {
		return nil, err
	}
	token, err := tokenOf(req)
	if err != nil {
		return nil, err
	}
	if err := c.useToken(ctx, token, req); err != nil {
		return nil, err
	}
	if err := c.enter(ctx, on, raft.ServerID(req.Node), raft.ServerAddress(req.Advertise)); err != nil {
		return nil, err
	}
	return json.Marshal(joinReply{
		Cluster: record.Id, Generation: c.id.Generation, Name: record.Name, Cert: string(cert), Peers: c.addresses(),
		CA: string(record.CaCert), Next: string(record.NextCert), Cross: string(record.CrossCert), Index: c.store.Applied(),
		Seal: c.id.SealKeys(),
	})
}
