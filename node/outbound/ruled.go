package outbound

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"relay/queue"
)

// ruledMost is how many lines wait for the log: a storm of ruled mail neither holds up Apply nor fills the memory.
const ruledMost = 10_000

type ruledLine struct {
	id        queue.ID
	recipient string
	rule      uint64
	action    string
}

// ruledLines are what is told of new mail that rules decide on. The apply goroutine puts them in, LogRuled writes them.
type ruledLines struct {
	mu   sync.Mutex
	all  []ruledLine
	more uint64        // that had no room
	some chan struct{} // has one when there are lines
}

func (l *ruledLines) put(one ruledLine) {
	l.mu.Lock()
	if len(l.all) < ruledMost {
		l.all = append(l.all, one)
	} else {
		l.more++
	}
	l.mu.Unlock()
	select {
	case l.some <- struct{}{}:
	default:
	}
}

// LogRuled writes the lines of mail that rules decide on until ctx ends.
func (o *Spool) LogRuled(ctx context.Context) error {
	for {
		select {
		case <-o.rules.lines.some:
			o.writeRuled()
		case <-ctx.Done():
			o.writeRuled()
			return nil
		}
	}
}

func (o *Spool) writeRuled() {
	l := &o.rules.lines
	l.mu.Lock()
	all, more := l.all, l.more
	l.all, l.more = nil, 0
	l.mu.Unlock()
	for _, one := range all {
		o.log.Info("ruled", zap.Stringer("id", one.id), zap.String("recipient", one.recipient),
			zap.Uint64("rule", one.rule), zap.String("action", one.action))
	}
	if more > 0 {
		o.log.Info("ruled more", zap.Uint64("count", more))
	}
}
