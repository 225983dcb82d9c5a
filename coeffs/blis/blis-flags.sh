# Flags of each calibrated deployment. Source this file, then: blis run $(blis_flags NAME) ...
# BLIS_DEFAULTS_FOLDER is where the defaults files are (default: the current folder).
: "${BLIS_DEFAULTS_FOLDER:=.}"
BLIS_DEPLOYMENTS="codellama-34b-instruct-hf-h100-tp2 llama-2-70b-hf-h100-tp4 llama-2-7b-hf-h100-tp1 mixtral-8x7b-v0.1-h100-tp2"
blis_flags() {
  case "$1" in
    codellama-34b-instruct-hf-h100-tp2) echo "--model codellama-34b-instruct-hf --hardware H100 --tp 2 --latency-model trained-physics --total-kv-blocks 26602 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 --max-model-len 4096 --defaults-filepath $BLIS_DEFAULTS_FOLDER/codellama-34b-instruct-hf-h100-tp2.defaults.yaml" ;;
    llama-2-70b-hf-h100-tp4) echo "--model llama-2-70b-hf --hardware H100 --tp 4 --latency-model trained-physics --total-kv-blocks 31356 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 --max-model-len 4096 --defaults-filepath $BLIS_DEFAULTS_FOLDER/llama-2-70b-hf-h100-tp4.defaults.yaml" ;;
    llama-2-7b-hf-h100-tp1) echo "--model llama-2-7b-hf --hardware H100 --tp 1 --latency-model trained-physics --total-kv-blocks 7462 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 --max-model-len 4096 --defaults-filepath $BLIS_DEFAULTS_FOLDER/llama-2-7b-hf-h100-tp1.defaults.yaml" ;;
    mixtral-8x7b-v0.1-h100-tp2) echo "--model mixtral-8x7b-v0.1 --hardware H100 --tp 2 --latency-model trained-physics --total-kv-blocks 27510 --block-size-in-tokens 16 --max-num-seqs 128 --max-num-batched-tokens 2048 --max-model-len 4096 --defaults-filepath $BLIS_DEFAULTS_FOLDER/mixtral-8x7b-v0.1-h100-tp2.defaults.yaml" ;;
    *) echo "blis_flags: no deployment $1, expected one of: $BLIS_DEPLOYMENTS" >&2; return 2 ;;
  esac
}
