package inbound

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/rule"
)

// ruleCopy is a copy of the message that a standing rule wants.
type ruleCopy struct {
	to   string
	plan *pb.Accept
}

// copyByRule plans the copies that standing rules want: one of the message to each address, however many of its
// recipients lead there. They exist exactly if the message does, have the null path, so that nobody hears of their
// failure, and no rule copies them again. A rule whose address leads nowhere copies nothing, and the log says so.
//
// It is called again where a filter has changed the recipients. Copies keep their ids then; one more is not possible
// when the body has gone ahead under the ids planned before.
func (in *intake) copyByRule() error {
	if !in.copies.Copies() {
		return nil
	}
	wanted := map[string]*pb.Rule{}
	var order []string
	for _, address := range plan.Addresses(in.plan) {
		e := &rule.Envelope{
			Sender: in.env.sender, Recipient: address, Client: in.env.client.GetAddress(), User: in.env.client.GetUser(),
		}
		if r := in.copies.Copy(e, in.now); r != nil && wanted[r.To] == nil {
			wanted[r.To] = r
			order = append(order, r.To)
		}
	}
	before := in.copied
	in.copied = nil
	return in.replica.View(func(v spool.View) error {
		for _, to := range order {
			targets, _, err := directory.Resolve(v, to)
			if err != nil {
				in.log.Warn("a rule copies to an address that leads nowhere", zap.Stringer("id", in.id),
					zap.Uint64("rule", wanted[to].Id), zap.String("address", to), zap.Error(err))
				continue
			}
			id := replica.NewID(in.now)
			if k := slices.IndexFunc(before, func(c ruleCopy) bool { return c.to == to }); k >= 0 {
				id = spool.ID(before[k].plan.Message.Id)
			} else if in.state != bodyInline {
				return replyFilterLarge
			}
			one := plan.Copy(id, targets, in.env.options.HoldUntilMs)
			one.Detail = fmt.Sprintf("copy of %s by rule %d", in.id, wanted[to].Id)
			in.copied = append(in.copied, ruleCopy{to, one})
			in.plan.Copies = append(in.plan.Copies, one)
		}
		return nil
	})
}
