package doctor

import "time"

// Bounds of the conditions of disks and certificates.
const (
	day = 24 * time.Hour

	freePercent = 10 // of a disk
	leastSyncs  = 20 // to judge the mean by
	syncSlow    = 50 * time.Millisecond
	syncBad     = 250 * time.Millisecond
	leastOver   = time.Hour // that a rate has to be measured over
	fillWarn    = 14 * day
	fillError   = 3 * day
)

func diskConditions() []condition {
	return []condition{
		{
			"disk-room", "the disks have room",
			"a disk is full or nearly so",
			"make room on it, or shorten what is kept: relayctl settings show", judgeRoom,
		},
		{
			"disk-sync", "writes to the log are quick",
			"this node's disk is slow: every message waits for it",
			"look who else writes to the disk, or use a faster one", judgeSyncs,
		},
		{
			"disk-fills", "the disk does not fill up soon",
			"the disk will be full soon",
			"make room on it, or shorten what is kept: relayctl settings show", judgeFilling,
		},
		{
			"history-bound", "the history lasts as long as it should",
			"the history of messages is cut short by its bound",
			"look at 'relayctl settings show', and raise history_bytes with 'relayctl settings set'", judgeHistory,
		},
	}
}

func judgeRoom(f *Facts, v *verdict) {
	if d, ok := need(v, f.Disk); ok && d.Total > 0 {
		if d.Full {
			v.add(Error, "node %s refuses new mail: %s of %s free, the mark is %s",
				f.Node, octets(d.Free), octets(d.Total), octets(d.Mark))
		} else {
			room(v, f.Node, d.Free, d.Total)
		}
	}
	if !f.Members.known {
		return
	}
	for _, n := range f.Members.value.Nodes {
		switch {
		case n.ID == f.Node:
		case n.DiskTotal == 0:
			v.add(Unknown, "node %s has not said how full its disk is", n.ID)
		case n.Full:
			v.add(Error, "node %s refuses new mail: %s of %s free", n.ID, octets(n.DiskFree), octets(n.DiskTotal))
		default:
			room(v, n.ID, n.DiskFree, n.DiskTotal)
		}
	}
}

func room(v *verdict, node string, free, total uint64) {
	s := OK
	if free/freePercent < total/100 {
		s = Warning
	}
	v.add(s, "node %s: %s of %s free (%d%%)", node, octets(free), octets(total), free/max(total/100, 1))
}

func judgeSyncs(f *Facts, v *verdict) {
	s, ok := need(v, f.Syncs)
	if !ok {
		return
	}
	if s.Count < leastSyncs {
		v.add(Unknown, "only %s to the log in %s", counted(int(s.Count), "write"), span(s.Over))
		return
	}
	severity := OK
	switch {
	case s.Mean > syncBad:
		severity = Error
	case s.Mean > syncSlow:
		severity = Warning
	}
	v.add(severity, "a write to the log took %s on average, of %d in %s", span(s.Mean), s.Count, span(s.Over))
}

// measured reports whether a rate was measured for long enough.
func measured(v *verdict, over time.Duration) bool {
	if over < leastOver {
		v.add(Unknown, "it was measured for %s, and %s are needed", span(over), span(leastOver))
	}
	return over >= leastOver
}

func judgeFilling(f *Facts, v *verdict) {
	r, ok := need(v, f.Filling)
	d, has := need(v, f.Disk)
	if !ok || !has || !measured(v, r.Over) {
		return
	}
	if r.Rate <= 0 {
		v.note("nothing was added in %s", span(r.Over))
		return
	}
	left := time.Duration(min(float64(d.Free-min(d.Free, d.Mark))/r.Rate, 1e6*day.Seconds()) * float64(time.Second))
	severity := OK
	switch {
	case left < fillError:
		severity = Error
	case left < fillWarn:
		severity = Warning
	}
	v.add(severity, "%s a day over the last %s: mail will be refused in %s",
		octets(uint64(r.Rate*day.Seconds())), span(r.Over), span(left))
}

func judgeHistory(f *Facts, v *verdict) {
	h, ok := need(v, f.History)
	if !ok {
		return
	}
	used := float64(h.Bytes) / float64(max(h.Bound, 1))
	lasts := time.Duration(min(float64(h.Bound)/max(h.Rate, 1e-9), 1e6*day.Seconds()) * float64(time.Second))
	switch {
	case used >= 0.95 && h.Span < h.Keep:
		v.add(Warning, "%s of %s are used: it lasts %s, not %s",
			octets(h.Bytes), octets(h.Bound), span(h.Span), span(h.Keep))
	case h.Over < leastOver && used >= 0.5:
		measured(v, h.Over)
	case h.Over >= leastOver && h.Rate > 0 && lasts < h.Keep:
		v.add(Warning, "at the rate of the last %s it lasts %s, not %s", span(h.Over), span(lasts), span(h.Keep))
	default:
		v.note("%s of %s are used", octets(h.Bytes), octets(h.Bound))
	}
}

func certificateConditions() []condition {
	return []condition{
		{
			"certificate-node", "this node's certificate on the cluster port is good for long",
			"this node's certificate on the cluster port ends soon, though it should renew itself",
			"look why the node has no majority; 'relayctl status' says", judgeEnds(OfNode, 21*day, 3*day),
		},
		{
			"certificate-ca", "the cluster's CA is good for long",
			"the cluster's CA ends soon",
			"relayctl cluster rotate-ca --dry-run", judgeEnds(OfCA, 60*day, 14*day),
		},
		{
			"certificate-tls", "the certificates of [tls] are good for long",
			"a certificate of [tls], for listeners and the admin API, ends soon",
			"renew it, and put it in place of the old files", judgeEnds(OfFile, 14*day, 3*day),
		},
		{
			"certificate-acme", "the certificates by ACME are good for long",
			"a certificate by ACME ends soon, though it should renew itself",
			"look in the leader's log why the CA gives no new one", judgeEnds(OfACME, 7*day, 2*day),
		},
		{
			"certificate-self-made", "no listener that strangers reach shows a self-made certificate",
			"a listener that strangers reach shows a self-made certificate, which their programs refuse",
			"name one of a known CA in [tls], or have one made by [acme]", judgeSelfMade,
		},
	}
}

// judgeEnds warns of the end of certificates of a kind.
func judgeEnds(kind string, warn, bad time.Duration) func(f *Facts, v *verdict) {
	return func(f *Facts, v *verdict) {
		all, ok := need(v, f.Certificates)
		if !ok {
			return
		}
		for _, c := range all {
			left := c.Ends.Sub(f.Now)
			switch {
			case c.Kind != kind:
			case left <= 0:
				v.add(Error, "%s: ended %s ago", c.Name, span(left))
			case left < bad:
				v.add(Error, "%s: ends in %s", c.Name, span(left))
			case left < warn:
				v.add(Warning, "%s: ends in %s", c.Name, span(left))
			default:
				v.note("%s: ends in %s", c.Name, span(left))
			}
		}
	}
}

func judgeSelfMade(f *Facts, v *verdict) {
	all, ok := need(v, f.Certificates)
	a, has := need(v, f.Access)
	if !ok || !has {
		return
	}
	for _, c := range all {
		if c.SelfMade && c.Kind == OfFile && len(a.Public) > 0 {
			v.add(Warning, "%s, at %s", c.Name, list(a.Public))
		}
	}
}
