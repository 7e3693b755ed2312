#!/bin/bash
# DevStack plugin of vmha: installs the agent and the controller from the checkout. Written for current DevStack; NOT RUN.
#
#   stack install      packages, the checkout
#   stack post-config  account, key, vmha.conf, etcd's flag
#   stack extra        services, then the gate's hook
#   unstack, clean     the hook goes first: a shut gate without an agent lets no guest start

VMHA_HOOK_TARGET=/etc/libvirt/hooks/qemu.d/vmha
VMHA_ETCD_DROPIN=/etc/systemd/system/devstack@etcd.service.d/vmha.conf

function install_vmha {
    install_package pkg-config libvirt-dev
    if is_service_enabled vmha-controller; then
        install_package "$(is_ubuntu && echo fence-agents-base || echo fence-agents)"
    fi
    setup_develop "$VMHA_DIR"
}

function configure_vmha {
    sudo install -d -m 755 -o "$STACK_USER" "$VMHA_CONF_DIR"
    rm -f "$VMHA_CONF"
    install -m 600 /dev/null "$VMHA_CONF"  # it will hold a password
    iniset "$VMHA_CONF" DEFAULT host "$(hostname)"
    iniset "$VMHA_CONF" DEFAULT debug "$ENABLE_DEBUG_LOG_LEVEL"
    iniset "$VMHA_CONF" DEFAULT use_stderr True
    iniset "$VMHA_CONF" etcd endpoints "http://$SERVICE_HOST:${ETCD_PORT:-2379}"
    iniset "$VMHA_CONF" beat networks "$VMHA_NETWORKS"
    iniset "$VMHA_CONF" beat controllers "$VMHA_CONTROLLERS"
    iniset "$VMHA_CONF" gates dry_run "$VMHA_DRY_RUN"
    _vmha_secrets
    if is_service_enabled vmha-controller; then
        _vmha_controller_conf
    fi
}

function _vmha_secrets {
    local key=$VMHA_CONF_DIR/deployment.key
    if [[ -n "$VMHA_DEPLOYMENT_KEY" ]]; then
        (umask 077; echo "$VMHA_DEPLOYMENT_KEY" > "$key")
    elif [[ ! -s "$key" ]]; then
        (umask 077; openssl rand -hex 32 > "$key")
    fi
    if [[ -n "$VMHA_FENCING_FILE" ]]; then
        install -m 600 "$VMHA_FENCING_FILE" "$VMHA_CONF_DIR/fencing.json"
    elif [[ ! -s "$VMHA_CONF_DIR/fencing.json" ]]; then
        (umask 077; echo '{}' > "$VMHA_CONF_DIR/fencing.json")
    fi
}

function _vmha_controller_conf {
    create_service_user vmha admin
    iniset "$VMHA_CONF" controller listen "$VMHA_LISTEN"
    iniset "$VMHA_CONF" nova auth_url "$KEYSTONE_SERVICE_URI/v3"
    iniset "$VMHA_CONF" nova username vmha
    iniset "$VMHA_CONF" nova password "$SERVICE_PASSWORD"
    iniset "$VMHA_CONF" nova project_name "$SERVICE_PROJECT_NAME"
    iniset "$VMHA_CONF" nova user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$VMHA_CONF" nova project_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$VMHA_CONF" nova region_name "$REGION_NAME"
    iniset "$VMHA_CONF" nova interface public
}

# vmha-agent must tell a quiet watch from a dead one.
function configure_vmha_etcd {
    [[ "$SERVICE_HOST" == "$HOST_IP" ]] || return 0
    sudo install -d "$(dirname $VMHA_ETCD_DROPIN)"
    printf '[Service]\nEnvironment=ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL=1s\n' | sudo tee $VMHA_ETCD_DROPIN > /dev/null
    sudo systemctl daemon-reload
    sudo systemctl restart devstack@etcd.service
}

# The units of the project, with DevStack's paths; the controller runs as DevStack's user.
function start_vmha_service {
    local name=$1 lines=$2 dropin=/etc/systemd/system/$1.service.d/devstack.conf
    sudo install -m 644 "$VMHA_DIR/etc/systemd/$name.service" "/etc/systemd/system/$name.service"
    sudo install -d "$(dirname "$dropin")"
    printf '[Service]\nExecStart=\nExecStart=%s/%s --config-file %s\n%b' \
        "$(get_python_exec_prefix)" "$name" "$VMHA_CONF" "$lines" | sudo tee "$dropin" > /dev/null
    sudo systemctl daemon-reload
    sudo systemctl enable "$name.service"
    sudo systemctl restart "$name.service"
}

function start_vmha {
    if is_service_enabled vmha-controller; then
        start_vmha_service vmha-controller "User=$STACK_USER\nGroup=$STACK_USER\nProtectHome=no\n"
    fi
    if is_service_enabled vmha-agent; then
        start_vmha_service vmha-agent ""
        if [[ "$VMHA_HOOK" == "True" ]]; then
            install_vmha_hook
        fi
    fi
}

# Only once the gate is open: before that the hook would let no guest start.
function install_vmha_hook {
    if ! timeout 60 bash -c 'until [ -s /run/vmha/gate ]; do sleep 0.5; done'; then
        die $LINENO "vmha-agent has not opened the gate within 60 s: see journalctl -u vmha-agent"
    fi
    sudo install -D -m 755 "$VMHA_DIR/etc/libvirt/hooks/qemu.d/vmha" $VMHA_HOOK_TARGET
    restart_service libvirtd
}

function stop_vmha {
    if [[ -e $VMHA_HOOK_TARGET ]]; then
        sudo rm -f $VMHA_HOOK_TARGET
        restart_service libvirtd
    fi
    local name
    for name in vmha-agent vmha-controller; do
        if [[ -e /etc/systemd/system/$name.service ]]; then
            # the whole control group: vmha-beat, which otherwise outlives the agent, goes too
            sudo systemctl stop "$name.service"
            sudo systemctl kill --kill-who=all "$name.service" 2> /dev/null || true
            sudo systemctl disable "$name.service"
        fi
    done
}

function clean_vmha {
    sudo rm -rf /etc/systemd/system/vmha-{agent,controller}.service{,.d} $VMHA_ETCD_DROPIN "$VMHA_CONF_DIR" /var/lib/vmha /run/vmha
    sudo systemctl daemon-reload
}

if is_service_enabled vmha-agent || is_service_enabled vmha-controller; then
    case "$1 $2" in
        "stack install")
            echo_summary "Installing vmha"
            install_vmha
            ;;
        "stack post-config")
            echo_summary "Configuring vmha"
            configure_vmha
            configure_vmha_etcd
            ;;
        "stack extra")
            echo_summary "Starting vmha"
            start_vmha
            ;;
        "unstack "*)
            stop_vmha
            ;;
        "clean "*)
            clean_vmha
            ;;
    esac
fi
