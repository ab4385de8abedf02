package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/fault"
	"relay/cluster/pki"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A rotation of the CA has three steps, each of them a command: all trust the
// next CA beside the present one; then it signs, and all get new certificates;
// then it alone is trusted. A leader takes the next step when every member has
// said that it did the present one, so a node that is off holds the rotation up.

// The steps, and when every member of raft's configuration is ready for the next one:
//
//   - 0: the CA is trusted and signs.
//   - 1: CA and next CA are trusted, the CA signs; each has written that to its
//     file, and says so in its renewals.
//   - 2: both are trusted, the next one signs; each says the serial of its new
//     certificate, as on record.
//   - 0 again: the next CA is trusted and signs. Shown are leaf, CA, that CA
//     signed by the former, the former; tokens of both are good.

const askRotate = "cluster/rotate-ca"

// Rotation is how far a rotation of the CA is.
type Rotation struct {
	Step  int      `json:"step"`  // 0: none is under way
	Waits []string `json:"waits"` // members that have not done this step
}

// RotateCA begins to change the cluster's CA, after the members named were
// removed: those must join anew. If a rotation is under way, it goes on
// without them. It ends by itself; Rotation says how far it is.
func (c *Cluster) RotateCA(ctx context.Context, without []string, adm *pb.Admin) error {
	b, err := proto.Marshal(adm)
	if err != nil {
		return err
	}
	req, err := json.Marshal(rotateRequest{without, b})
	if err != nil {
		return err
	}
	_, err = c.askLeader(ctx, askRotate, req)
	return err
}

type rotateRequest struct {
	Without []string `json:"without,omitempty"`
	Admin   []byte   `json:"admin"`
}

// answerRotate is the leader's part of RotateCA.
func (c *Cluster) answerRotate(ctx context.Context, from string, body []byte) ([]byte, error) {
	var req rotateRequest
	adm := &pb.Admin{}
	if err := errors.Join(json.Unmarshal(body, &req), proto.Unmarshal(req.Admin, adm)); err != nil {
		return nil, err
	}
	switch {
	case c.leaderTerm.Load() == nil:
		return nil, fault.ErrNotLeader
	case !c.At(2):
		return nil, errors.New("cluster: the CA is rotated from cluster version 2 on: run 'relayctl cluster upgrade' first")
	}
	for _, node := range req.Without {
		if !c.book.Member(node) {
			continue
		}
		b, err := json.Marshal(removeRequest{ID: node, Admin: req.Admin})
		if err != nil {
			return nil, err
		}
		if _, err := c.answerRemove(ctx, from, b); err != nil {
			return nil, err
		}
	}
	return nil, c.beginRotation(ctx, adm)
}

// beginRotation makes the next CA, unless a rotation is under way.
func (c *Cluster) beginRotation(ctx context.Context, adm *pb.Admin) error {
	record, err := c.record()
	if err != nil || record.CaStep != spool.CASettled {
		return err
	}
	old, err := pki.OpenAuthority(record.CaCert, record.CaKey)
	if err != nil {
		return err
	}
	next, err := pki.NewAuthority(record.Name, c.Now())
	if err != nil {
		return err
	}
	key, err := next.KeyPEM()
	if err != nil {
		return err
	}
	cross, err := old.Cross(next)
	if err != nil {
		return err
	}
	f, err := spool.Encode(spool.KindPutCa, &pb.PutCa{
		Admin: adm, FromStep: spool.CASettled, ToStep: spool.CATrust, NextCert: next.CertPEM(), NextKey: key,
		CrossCert: cross,
	})
	if err != nil {
		return err
	}
	res, err := c.propose(ctx, f)
	if err == nil && res.Code != pb.Code_OK && res.Code != pb.Code_STALE { // STALE: somebody else has begun
		err = fmt.Errorf("cluster: the rotation was refused: %s", res.Text)
	}
	return err
}

// rotate takes the next step of a rotation where all have done the present one.
func (c *Cluster) rotate(ctx context.Context) {
	record, err := c.record()
	if err != nil || record.CaStep == spool.CASettled {
		return
	}
	if waits, err := c.waitsFor(record); err != nil || len(waits) > 0 {
		return
	}
	to := uint32(spool.CASign)
	if record.CaStep == spool.CASign {
		to = spool.CASettled
	}
	res := c.command(ctx, spool.KindPutCa, &pb.PutCa{
		FromStep: record.CaStep, ToStep: to, NextCert: record.NextCert,
		Admin: &pb.Admin{Who: "cluster", Why: "all nodes have done the step before", Node: c.id.Node},
	})
	if res.GetCode() == pb.Code_OK && res != nil {
		c.log.Info("cluster: the CA changes", zap.Uint32("step", to))
	}
}

// waitsFor lists the members that have not done the present step, as far as the
// state knows.
func (c *Cluster) waitsFor(record *pb.Cluster) (waits []string, err error) {
	servers := c.book.Servers()
	if len(servers) == 0 {
		return nil, fmt.Errorf("%w: the members are not known", fault.ErrUnavailable)
	}
	err = c.store.View(func(v spool.View) error {
		for _, s := range servers {
			session, live, err := v.Session(string(s.ID))
			if err != nil {
				return err
			}
			m, _, err := v.Member(string(s.ID))
			if err != nil {
				return err
			}
			want := spool.SaysOfCA(record, m.GetSerial(), m.GetCa())
			if !live || want == nil || !bytes.Equal(session.Ca, want) {
				waits = append(waits, string(s.ID))
			}
		}
		return nil
	})
	slices.Sort(waits)
	return waits, err
}

// Rotation says how far a rotation of the CA is, as this node knows it.
func (c *Cluster) Rotation() (r Rotation, err error) {
	record, err := c.record()
	if err != nil || record.CaStep == spool.CASettled {
		return r, err
	}
	r.Step = int(record.CaStep)
	r.Waits, err = c.waitsFor(record)
	return r, err
}
