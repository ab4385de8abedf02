package operator

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/queue/replyclass"
)

// Bounds of what is classified for one answer: replies remembered, and replies looked at (some microseconds each).
const (
	classesKept   = 4096
	classesLooked = 5000
)

// replyTable has the site's own rules of what replies mean. Rules of a newer build that this one can not read do not
// count.
func replyTable(v spool.View) (*replyclass.Table, error) {
	s, err := v.Settings()
	if err != nil {
		return nil, err
	}
	t, _ := replyclass.Parse(s.GetReplyRules())
	return t, nil
}

// classes classifies many replies, most of which are the same.
type classes struct {
	table  *replyclass.Table
	known  map[string]replyclass.Class
	looked int
}

// of is the class of a reply; false: too many have been looked at.
func (c *classes) of(reply string) (replyclass.Class, bool) {
	class, ok := c.known[reply]
	if ok {
		return class, true
	}
	if c.looked++; c.looked > classesLooked {
		return replyclass.None, false
	}
	if c.known == nil || len(c.known) >= classesKept {
		c.known = map[string]replyclass.Class{}
	}
	class = c.table.Of(reply)
	c.known[reply] = class
	return class, true
}

// classify names the classes of the latest failures of waiting recipients.
func classify(t *replyclass.Table, waiting []admin.QueueRecipient) {
	c := classes{table: t}
	for i := range waiting {
		class, _ := c.of(waiting[i].LastReply)
		waiting[i].Class = class.String()
	}
}

// eventClass is the class of an attempt that failed; empty where an operator or a rule ended it.
func eventClass(t *replyclass.Table, e *pb.Event) string {
	switch e.What {
	case "deferred", "bounced", "expired":
		if e.Who == "" && !strings.HasPrefix(e.Host, "rule ") && e.Host != "suppression list" {
			return t.Of(e.Reply).String()
		}
	}
	return ""
}

// advice says in sentences what the failures of the first recipients mean, each class once.
func (d *messageDetail) advice() (lines []string) {
	c := classes{table: d.replies}
	var told []replyclass.Class
	for _, r := range d.recipients[:min(len(d.recipients), whyMost)] {
		class, _ := c.of(r.LastReply)
		if words := class.Advice(); words != "" && !slices.Contains(told, class) {
			told = append(told, class)
			lines = append(lines, fmt.Sprintf("Class %s: %s.", class, words))
		}
	}
	return lines
}

// classCounts are deferred recipients by class.
type classCounts [replyclass.Classes]float64

// failed counts a deferred recipient for its destination.
func (m *ageMatrix) failed(into map[string]*classCounts, domain string, r *pb.Recipient) {
	if r.State != pb.State_DEFERRED {
		return
	}
	class, ok := m.classes.of(r.LastReply)
	if !ok || class == replyclass.None {
		return
	}
	if into[domain] == nil {
		into[domain] = new(classCounts)
	}
	into[domain][class]++
}

// weigh adds what was read of a slice to the rows; each stands for so many.
func (m *ageMatrix) weigh(read map[string]*classCounts, weight float64) {
	for domain, counts := range read {
		row := m.row(domain)
		for class, n := range counts {
			row.classes[class] += weight * n
			m.allClasses[class] += weight * n
		}
	}
}

// scaled are counts by name that add up to total; nil: nothing is known.
func (c *classCounts) scaled(total uint64) map[string]uint64 {
	sum := 0.0
	for _, n := range c {
		sum += n
	}
	if sum == 0 || total == 0 || math.IsNaN(sum) {
		return nil
	}
	named := map[string]uint64{}
	for class, n := range apportion(c[:], total) {
		if n > 0 {
			named[replyclass.Class(class).String()] = n
		}
	}
	return named
}
