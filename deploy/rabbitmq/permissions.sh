#!/bin/sh
# What each RabbitMQ user of Countersign may do; whatever it had before is taken back. Printed by `countersign topology permissions --file
# topology.toml`: print and run it again when the topology has changed. Make the users before: `rabbitmqctl add_user NAME`.
# The argument is the virtual host. RABBITMQCTL names another rabbitmqctl than the one on the PATH.
set -eu
[ $# -gt 0 ] || set -- '/'
ctl=${RABBITMQCTL:-rabbitmqctl}

# publishes messages; delayed checks, resends and acts of operators over the default exchange
"$ctl" set_permissions -p "$1" 'upstream' '^$' '^(amq\.default|orders)$' '^$'

# consumes work queues; receipts, retries, dead letters and acts of operators over the default exchange
"$ctl" set_permissions -p "$1" 'downstream' '^$' '^(amq\.default)$' '^(inventory\.orders|inventory\.orders\.limit)$'

# consumes receipts, checks and dead letters; publishes events; checks, probes and what is redriven over the default exchange
"$ctl" set_permissions -p "$1" 'callback' '^$' '^(amq\.default|countersign\.events)$' '^(countersign\.checks|countersign\.quarantine|countersign\.receipts|inventory\.orders\.dead)$'

# declares exchanges, queues and bindings: countersign topology apply
"$ctl" set_permissions -p "$1" 'topology' '^(countersign\.checks|countersign\.checks\.120000|countersign\.checks\.15000|countersign\.checks\.300000|countersign\.checks\.60000|countersign\.checks\.900000|countersign\.events|countersign\.quarantine|countersign\.receipts|inventory\.orders|inventory\.orders\.dead|inventory\.orders\.limit|inventory\.orders\.retry\.1000|inventory\.orders\.retry\.10000|inventory\.orders\.retry\.300000|inventory\.orders\.retry\.60000|orders)$' '^(amq\.default|inventory\.orders)$' '^(countersign\.checks|countersign\.checks\.120000|countersign\.checks\.15000|countersign\.checks\.300000|countersign\.checks\.60000|countersign\.checks\.900000|countersign\.receipts|inventory\.orders|inventory\.orders\.retry\.1000|inventory\.orders\.retry\.10000|inventory\.orders\.retry\.300000|inventory\.orders\.retry\.60000|orders)$'

# looks, by the management interface: countersign doctor --management-url
"$ctl" set_permissions -p "$1" 'doctor' '^$' '^$' '^$'
"$ctl" set_user_tags 'doctor' monitoring
