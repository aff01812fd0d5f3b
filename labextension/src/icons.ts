import { LabIcon } from '@jupyterlab/ui-components';
import forkSvg from '../style/icons/fork.svg';
import microvmSvg from '../style/icons/microvm.svg';

export const microvmIcon = new LabIcon({ name: 'fc-kernel:microvm', svgstr: microvmSvg });
export const forkIcon = new LabIcon({ name: 'fc-kernel:fork', svgstr: forkSvg });
