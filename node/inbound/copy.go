package inbound

import (
	"fmt"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/rule"
)

// copyByRule plans the copies that standing rules want: one of the message to each address, however many of its
// recipients lead there. They exist exactly if the message does, have the null path, so that nobody hears of their
// failure, and no rule copies them again. A rule whose address leads nowhere copies nothing, and the log says so.
func (in *intake) copyByRule() error {
	set := in.rules()
	if !set.Copies() {
		return nil
	}
	wanted := map[string]*pb.Rule{}
	var order []string
	for _, address := range plan.Addresses(in.plan) {
		e := &rule.Envelope{
			Sender: in.env.sender, Recipient: address, Client: in.env.client.GetAddress(), User: in.env.client.GetUser(),
		}
		if r := set.Copy(e, in.now); r != nil && wanted[r.To] == nil {
			wanted[r.To] = r
			order = append(order, r.To)
		}
	}
	return in.replica.View(func(v spool.View) error {
		for _, to := range order {
			targets, _, err := directory.Resolve(v, to)
			if err != nil {
				in.log.Warn("a rule copies to an address that leads nowhere", zap.Stringer("id", in.id),
					zap.Uint64("rule", wanted[to].Id), zap.String("address", to), zap.Error(err))
				continue
			}
			one := plan.Copy(replica.NewID(in.now), targets)
			one.Detail = fmt.Sprintf("copy of %s by rule %d", in.id, wanted[to].Id)
			in.copied = append(in.copied, one)
			in.plan.Copies = append(in.plan.Copies, one)
		}
		return nil
	})
}

// listCopies counts those of the plan that a list has made.
func (in *intake) listCopies() int { return len(in.plan.Copies) - len(in.copied) }
