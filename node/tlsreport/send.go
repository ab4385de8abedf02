package tlsreport

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/queue/remote/tlsrpt"
	"relay/smtp/printable"
)

const (
	settle = 2 * time.Hour // behind the end of a day: all nodes have left their counts by then
	giveUp = 2             // days in which a report can't be sent
)

// send sends the reports of the days that are over.
func (r *Reporter) send(ctx context.Context) {
	all := map[subject]tlsrpt.Counts{}
	before := dayOf(r.conf.Replica.Now().Add(-settle))
	err := r.conf.Replica.View(func(v spool.View) error {
		return v.TLS(func(c *pb.Tls) {
			var one tlsrpt.Counts
			if at := (subject{c.Day, c.Domain}); c.Day < before && json.Unmarshal(c.Counts, &one) == nil {
				all[at] = all[at].Merge(one)
			}
		})
	})
	if err != nil {
		r.conf.Log.Warn("the counts for reports on TLS can not be read", zap.Error(err))
	}
	for at, counts := range all {
		if ctx.Err() != nil || !r.conf.Leads() {
			return
		}
		sent, err := r.report(ctx, at, counts)
		log := r.conf.Log.With(zap.String("domain", at.domain), zap.Strings("to", sent))
		if err != nil {
			log.Info("a report on TLS could not be sent", zap.String("error", printable.Text(err.Error(), 200)))
		}
		if err != nil && len(sent) == 0 && at.day+giveUp >= before {
			continue // an hour later
		}
		if len(sent) > 0 {
			log.Info("a report on TLS was sent")
		}
		if err := r.propose(ctx, spool.KindDropTls, &pb.DropTls{Day: at.day, Domain: at.domain}); err != nil {
			log.Info("a report on TLS may be sent again", zap.Error(err))
		}
	}
}

// report sends the report of one domain's day wherever the domain wants it, and returns where it went; nowhere and no
// error: the domain wants none.
func (r *Reporter) report(ctx context.Context, at subject, counts tlsrpt.Counts) (sent []string, err error) {
	records, err := r.conf.TXT(ctx, "_smtp._tls."+at.domain)
	if err != nil {
		return nil, err
	}
	day := time.Unix(int64(at.day)*24*3600, 0).UTC()
	rep := &tlsrpt.Report{Domain: at.domain, Day: day, Submitter: r.conf.Hostname,
		ID:      day.Format("20060102") + "." + at.domain,
		Contact: "postmaster@" + r.conf.Hostname, Counts: counts}
	for _, uri := range tlsrpt.URIs(records) {
		one := r.post
		if strings.HasPrefix(strings.ToLower(uri), "mailto:") {
			one = r.mail
		}
		if e := one(ctx, rep, uri); e != nil {
			err = fmt.Errorf("%s: %w", uri, e)
			continue
		}
		sent = append(sent, printable.Text(uri, 200))
	}
	return sent, err
}

func (r *Reporter) mail(ctx context.Context, rep *tlsrpt.Report, uri string) error {
	to, err := tlsrpt.Address(uri)
	if err != nil {
		return err
	}
	message, err := rep.Mail(to, r.conf.Replica.Now())
	if err != nil {
		return err
	}
	return r.conf.Submit(ctx, to, message)
}

func (r *Reporter) post(ctx context.Context, rep *tlsrpt.Report, uri string) error {
	body, err := rep.Gzip()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/tlsrpt+gzip")
	resp, _, err := r.conf.Web().Do(req)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the web server answered %d", resp.StatusCode)
	}
	return err
}
