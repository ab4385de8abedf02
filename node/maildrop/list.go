package maildrop

import (
	"sync"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// lists keeps the lists of mailboxes that were read last, by what was in them:
// clients ask the same mailboxes again and again, and find nothing new. The zero
// value is empty and ready.
type lists struct {
	mu   sync.Mutex
	by   map[string]listed // by mailbox
	cost int
}

// listed is a list and the contents it tells of. Neither is ever written again.
type listed struct {
	box  *pb.Mailbox
	list []slot
	kept *kept
}

// kept are the unique ids of messages that brought their own. nil is none.
type kept struct {
	byUID  map[uint64]string
	byText map[string]uint64
}

// with adds one; it makes the table where there is none.
func (k *kept) with(uid uint64, text string) *kept {
	if k == nil {
		k = &kept{map[uint64]string{}, map[string]uint64{}}
	}
	k.byUID[uid], k.byText[text] = text, uid
	return k
}

func (k *kept) text(uid uint64) string {
	if k == nil {
		return ""
	}
	return k.byUID[uid]
}

func (k *kept) uid(text string) (uint64, bool) {
	if k == nil {
		return 0, false
	}
	uid, ok := k.byText[text]
	return uid, ok
}

// Bounds of what is kept, in slots of 16 octets.
const (
	listsCost = 256 << 10 // 4 MiB
	listCost  = 16        // of a list, its slots apart
	keptCost  = 10        // of a unique id in both tables
)

func (l listed) cost() int {
	cost := listCost + len(l.list)
	if l.kept != nil {
		cost += keptCost * len(l.kept.byUID)
	}
	return cost
}

// find returns the list of a mailbox that has these contents.
func (l *lists) find(mailbox string, box *pb.Mailbox) (listed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.by[mailbox]
	return one, spool.SameContents(box, one.box)
}

// keep takes a list that was read together with the record of its mailbox. It
// makes room by forgetting any others; a list that would drive out too many is
// not kept.
func (l *lists) keep(mailbox string, box *pb.Mailbox, one listed) {
	one.box = spool.Contents(box)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(mailbox)
	if one.cost() > listsCost/4 {
		return
	}
	for name := range l.by {
		if l.cost+one.cost() <= listsCost {
			break
		}
		l.drop(name)
	}
	if l.by == nil {
		l.by = map[string]listed{}
	}
	l.by[mailbox] = one
	l.cost += one.cost()
}

func (l *lists) drop(mailbox string) {
	if one, ok := l.by[mailbox]; ok {
		delete(l.by, mailbox)
		l.cost -= one.cost()
	}
}
